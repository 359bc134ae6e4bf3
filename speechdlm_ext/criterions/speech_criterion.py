"""Losses of speech recognition: CTC, and cross entropy of labels of clips or frames."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Optional

import torch
import torch.nn.functional as F
from fairseq import metrics
from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from torch import Tensor

from speechdlm_ext.asr.ctc_decoding import greedy
from speechdlm_ext.criterions.summed_criterion import SummedCriterion, log_means, precise
from speechdlm_ext.errors import InputError
from speechdlm_ext.metrics.classification import BinaryFigures, auroc, binary_figures, confusion, score_histograms
from speechdlm_ext.metrics.words import count_errors
from speechdlm_ext.modules.conv_speech import FRAMES, TEXT
from speechdlm_ext.modules.padding import frame_mask
from speechdlm_ext.neural_types import (
    LabelsType,
    LengthsType,
    LogitsType,
    LogprobsType,
    LossType,
    NeuralType,
    typecheck,
)

REDUCTIONS = ("mean_batch", "mean_volume", "mean", "sum")


@dataclass
class CTCCriterionConfig(FairseqDataclass):
    """Options of the loss."""

    ctc_reduction: ChoiceEnum(list(REDUCTIONS)) = field(  # type: ignore[valid-type]
        default="mean_batch",
        metadata={
            "help": "mean_batch: mean over utterances of their negative log-likelihoods; mean_volume: their sum over "
            "the number of target symbols; mean: mean of each divided by its target's length; sum"
        },
    )
    no_zero_infinity: bool = field(
        default=False, metadata={"help": "a text that is longer than its frames has an infinite loss, not 0"}
    )


@register_criterion("speech_ctc", dataclass=CTCCriterionConfig)
class CTCCriterion(SummedCriterion):
    """Connectionist temporal classification (Graves et al. 2006); the blank is the last symbol, as in NeMo.

    In the logs: ``loss`` by the reduction, in nats; ``nll_loss`` by symbol, in bits. In validation ``wer`` and ``cer``
    of the greedy text, in percent. ``impossible``: percent of utterances whose text is longer than their frames.
    """

    figures = (
        ("loss", "loss", "sample_size", "as it is"),
        ("nll_loss", "nll_loss", "ntokens", "bits"),
        ("impossible", "impossible", "nsentences", "percent"),
        ("wer", "word_errors", "words", "percent"),
        ("cer", "character_errors", "characters", "percent"),
    )

    def __init__(self, task: Any, ctc_reduction: str, no_zero_infinity: bool) -> None:
        super().__init__(task)
        if task.target != TEXT:
            raise InputError(f"criterion speech_ctc is for --target {TEXT}, found {task.target}: use speech_labels")
        self.reduction, self.zero_infinity = str(getattr(ctc_reduction, "value", ctc_reduction)), not no_zero_infinity
        self.dictionary, self.validation = task.target_dictionary, task.validation

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss of a batch, the sample size by which gradients are divided, and the sums for the logs."""
        log_probs, lengths = model(**sample["net_input"])
        targets, rows = sample["target"], sample["nsentences"]
        sizes = torch.tensor(sample["target_lengths"])
        frames = model.output_frames(torch.tensor(sample["samples"]))  # on the CPU: the loss does not wait for a device
        losses = self.losses(precise(log_probs), targets, frames, sizes)
        symbols = int(sizes.sum())
        nll = losses.detach().sum()
        scaled = losses / sizes.clamp(min=1).to(losses) if self.reduction == "mean" else losses
        loss = scaled.sum()
        size = {"mean_volume": max(1, symbols), "sum": 1}.get(self.reduction, rows)
        logs: dict[str, Any] = {
            "loss": loss.detach(), "nll_loss": nll, "impossible": losses.detach().le(0).sum() if symbols else 0,
            "ntokens": symbols, "nsentences": rows, "sample_size": size,
        }  # fmt: skip
        if not model.training:
            logs.update(self._errors(log_probs.detach(), lengths, sample))
        return loss, size, logs

    @typecheck(
        {
            "log_probs": NeuralType(("B", "T", "D"), LogprobsType()), "targets": NeuralType(("B", "T"), LabelsType()),
            "lengths": NeuralType(("B",), LengthsType()), "target_lengths": NeuralType(("B",), LengthsType()),
        },
        {"losses": NeuralType(("B",), LossType())},
        positional=True,
    )  # fmt: skip
    def losses(self, log_probs: Tensor, targets: Tensor, lengths: Tensor, target_lengths: Tensor) -> Tensor:
        """Negative log-likelihood in nats of each row's target (B, L) by log-probabilities (B, T, V + 1)."""
        steps = log_probs.transpose(0, 1)
        return F.ctc_loss(steps, targets, lengths, target_lengths, self.dictionary.pad(), "none", self.zero_infinity)

    def _errors(self, log_probs: Tensor, lengths: Tensor, sample: dict[str, Any]) -> dict[str, int]:
        """Edit distances of the greedy texts, by words and by characters."""
        sums = {"word_errors": 0, "words": 0, "character_errors": 0, "characters": 0}
        for number, found, target, size in zip(
            sample["id"].tolist(), greedy(log_probs, lengths), sample["target"].tolist(), sample["target_lengths"],
            strict=True,
        ):  # fmt: skip
            expected, text = self.dictionary.text(target[:size]), self.dictionary.text(found.symbols)
            self.validation.add(number, expected, text)
            for name, count in count_errors(expected, text)._asdict().items():
                sums[name] += count
        return sums


@dataclass
class LabelCriterionConfig(FairseqDataclass):
    """Options of the loss."""

    label_weights: Optional[str] = field(
        default=None, metadata={"help": "weights of the labels in order, separated by commas (default: 1 each)"}
    )


@register_criterion("speech_labels", dataclass=LabelCriterionConfig)
class LabelCriterion(SummedCriterion):
    """Mean cross entropy of the labels of clips, or of frames.

    In the logs: ``loss`` in nats, ``nll_loss`` in bits; ``accuracy`` in percent. In validation with two labels also
    ``precision``, ``recall``, ``f1`` and ``auroc`` in percent of the second one (speech, of a detector), over all that
    was validated; nan where nothing is labelled so or found. Counts of what was taken for what go to the task.
    """

    figures = (
        ("loss", "loss", "sample_size", "as it is"),
        ("nll_loss", "loss", "sample_size", "bits"),
        ("accuracy", "correct", "labels", "percent"),
    )

    def __init__(self, task: Any, label_weights: Optional[str]) -> None:
        super().__init__(task)
        if task.target == TEXT:
            raise InputError("criterion speech_labels is for --target label or frame_labels: use speech_ctc for text")
        self.frames, self.labels = task.target == FRAMES, len(task.symbols)
        self.weights: Optional[Tensor] = None
        if label_weights:
            try:
                self.weights = torch.tensor([float(word) for word in label_weights.split(",")])
            except ValueError:
                raise InputError(f"--label-weights {label_weights}: numbers are expected") from None
            if len(self.weights) != self.labels:
                raise InputError(f"--label-weights {label_weights}: {self.labels} are expected, one a label")

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, Any, dict[str, Any]]:
        """The loss of a batch, the sample size by which gradients are divided, and the sums for the logs."""
        logits, lengths = model(**sample["net_input"])
        target = sample["target"][:, 0]
        if self.frames:
            target = frames_labels(sample["target"], sample["target_lengths"], lengths, logits.shape[1])
        logits = precise(logits)
        weights = None if self.weights is None else self.weights.to(logits)
        loss = self.cross_entropy(logits, target, weights)
        logits, target = logits.flatten(0, -2), target.flatten()
        valid, best = target.ne(IGNORED), logits.argmax(-1)
        size = valid.sum() if weights is None else weights[target.clamp(min=0)].where(valid, 0.0).sum()
        logs: dict[str, Any] = {
            "loss": loss.detach(), "correct": (best.eq(target) & valid).sum(), "labels": valid.sum(),
            "ntokens": sample["ntokens"], "nsentences": sample["nsentences"], "sample_size": size,
        }  # fmt: skip
        if not model.training:
            target = target.clamp(min=0)
            logs[CONFUSION] = confusion(target, best, self.labels, valid)
            if self.labels == 2:
                logs[HISTOGRAMS] = score_histograms(logits.softmax(-1)[:, 1], target, valid)
        return loss, size, logs

    @property
    def input_types(self) -> dict[str, NeuralType]:
        """Of :meth:`cross_entropy`."""
        axes = ("B", "T") if self.frames else ("B",)
        return {
            "logits": NeuralType((*axes, "D"), LogitsType()), "labels": NeuralType(axes, LabelsType()),
            "weights": NeuralType(("D",), optional=True),
        }  # fmt: skip

    @property
    def output_types(self) -> dict[str, NeuralType]:
        """Of :meth:`cross_entropy`."""
        return {"loss": NeuralType((), LossType())}

    @typecheck(positional=True)
    def cross_entropy(self, logits: Tensor, labels: Tensor, weights: Optional[Tensor]) -> Tensor:
        """The sum over clips or frames, in nats, of logits (B, V) or (B, T, V) and labels (B,) or (B, T)."""
        flat, labels = logits.flatten(0, -2), labels.flatten()
        return F.cross_entropy(flat, labels, weights, ignore_index=IGNORED, reduction="sum")

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log means, and figures of tables that are summed over batches and workers."""
        log_means([{k: v for k, v in log.items() if k not in _TABLES} for log in logging_outputs], *cls.figures)
        for name in _TABLES:
            if tables := [log[name].cpu() for log in logging_outputs if name in log]:
                metrics.log_scalar_sum(f"_{name}", torch.stack(tables).sum(0).double())
                if name == HISTOGRAMS:
                    metrics.log_derived("auroc", lambda meters: _percent(auroc(meters["_" + HISTOGRAMS].sum)))
                elif len(tables[0]) == 2:
                    for figure in BinaryFigures._fields:
                        metrics.log_derived(figure, partial(_binary_figure, figure))


def _binary_figure(name: str, meters: Any) -> float:
    return _percent(getattr(binary_figures(meters["_" + CONFUSION].sum), name))


def _percent(share: Optional[float]) -> float:
    return math.nan if share is None else round(100 * share, 6)


CONFUSION, HISTOGRAMS = "confusion", "histograms"
_TABLES = (CONFUSION, HISTOGRAMS)
IGNORED = -100


def frames_labels(labels: Tensor, sizes: list[int], lengths: Tensor, frames: int) -> Tensor:
    """Labels (B, L) of another frame rate as labels (B, frames) of the model's: repeated, or the maximum of a group.

    Args:
        sizes: labels of each row.
        lengths: valid frames of each row (B,).

    Returns:
        Labels, ``IGNORED`` where there is no label or no frame.
    """
    count = torch.tensor(sizes, device=labels.device)
    labels = labels.masked_fill(~frame_mask(count, labels.shape[1]), 0)
    times = max(1, frames // labels.shape[1])
    group = max(1, round(labels.shape[1] / frames))
    if group > 1:
        labels = F.pad(labels, (0, -labels.shape[1] % group)).unflatten(1, (-1, group)).amax(-1)
        count = -(-count // group)
    labels = labels.repeat_interleave(times, 1)[:, :frames]
    labels = F.pad(labels.float(), (0, frames - labels.shape[1]), "replicate").long()
    # A row's last label lasts to its end, by less than one of its own labels.
    end = torch.where(lengths - count * times < times, lengths, count * times).minimum(lengths)
    last = labels.gather(1, (count * times - 1).clamp(0, frames - 1)[:, None])
    labels = torch.where(frame_mask(count * times, frames), labels, last)
    return labels.masked_fill(~frame_mask(end, frames), IGNORED)
