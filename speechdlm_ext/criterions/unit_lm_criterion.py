"""The loss of unit language models: the next unit, and how long the one that was read goes on."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from fairseq import metrics, utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from omegaconf import II
from torch import Tensor

from speechdlm_ext.errors import InputError


@dataclass
class UnitLMCriterionConfig(FairseqDataclass):
    """Options of the loss."""

    sentence_avg: bool = II("optimization.sentence_avg")
    label_smoothing: float = field(
        default=0.0, metadata={"help": "share of the probability that is spread over all rows in the target"}
    )
    duration_loss_weight: float = field(
        default=0.1, metadata={"help": "weight of the durations' L1 loss (frames), where --durations are predicted"}
    )


@register_criterion("unit_lm_criterion", dataclass=UnitLMCriterionConfig)
class UnitLMCriterion(FairseqCriterion):
    """Cross entropy of the next unit or boundary, plus the L1 distance of durations in frames.

    Every sum is over places, and the sample size is their number, so that an update does not depend on how its batches
    were cut. Label smoothing is fairseq's: ``1 - eps`` on the target and ``eps / K`` on each of the other K rows.

    In the logs: ``loss``, what is trained on, and ``nll_loss``, the cross entropy, in bits a place, boundaries counted
    (what ``fairseq-eval-lm`` says); ``ppl`` of the latter; ``bits_per_unit``, of units alone; ``bits_per_second`` of
    audio, the same bits for the seconds that the units last (comparable between codebooks), where these are known;
    ``accuracy`` in percent of units; ``duration_loss`` in frames.
    """

    def __init__(self, task: Any, sentence_avg: bool, label_smoothing: float, duration_loss_weight: float) -> None:
        super().__init__(task)
        if not 0 <= label_smoothing < 1:
            raise InputError(f"--label-smoothing {label_smoothing}: a share from 0 on, below 1, is wanted")
        if task.cfg.durations and not duration_loss_weight > 0:
            raise InputError(f"--duration-loss-weight {duration_loss_weight}: a positive one is wanted for --durations")
        self.sentence_avg = sentence_avg
        self.label_smoothing = label_smoothing
        self.duration_loss_weight = duration_loss_weight
        self.boundary = task.target_dictionary.eos()
        self.frame_rate = task.frame_rate

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss of a batch, the sample size by which gradients are divided, and the sums for the logs."""
        logits, extra = model(**sample["net_input"])
        target = sample["target"].flatten()
        logits = _precise(logits.flatten(0, -2))
        trained = target.ne(self.padding_idx)
        nll = F.cross_entropy(logits, target, ignore_index=self.padding_idx, reduction="none")  # (N,)
        loss = nll.sum()
        logs: dict[str, Any] = {"nll_loss": loss.detach()}
        if self.label_smoothing:
            loss = self._smooth(logits, trained, loss)
        is_unit = trained & target.ne(self.boundary)
        logs["unit_nll"] = nll.detach()[is_unit].sum()
        logs["units"] = is_unit.sum()
        logs["correct"] = (logits.argmax(-1).eq(target) & is_unit).sum()
        if self.frame_rate:
            logs["seconds"] = sample["frames"] / self.frame_rate
        if extra["durations"] is not None:
            distance, counted = _duration_loss(extra["durations"].flatten(), sample["durations"].flatten())
            loss = loss + self.duration_loss_weight * distance
            logs.update(duration_loss=distance.detach(), durations=counted)
        sample_size = sample["nsentences"] if self.sentence_avg else sample["ntokens"]
        logs.update(
            loss=loss.detach(), ntokens=sample["ntokens"], nsentences=sample["nsentences"], sample_size=sample_size
        )
        return loss, sample_size, logs

    def _smooth(self, logits: Tensor, trained: Tensor, nll: Tensor) -> Tensor:
        """Fairseq's label-smoothed loss; ``nll`` is the sum without smoothing."""
        each = self.label_smoothing / (logits.size(-1) - 1)
        everything = -(F.log_softmax(logits, -1).sum(-1) * trained).sum()
        return (1 - self.label_smoothing - each) * nll + each * everything

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Log means over all that was seen since the last log; see the class."""
        sums: dict[str, float] = {}
        for log in logging_outputs:
            for key, value in log.items():
                sums[key] = sums.get(key, 0.0) + float(value)
        bits = 1 / math.log(2)
        for name, total, count, scale in (
            ("loss", "loss", "sample_size", bits),
            ("nll_loss", "nll_loss", "ntokens", bits),
            ("bits_per_unit", "unit_nll", "units", bits),
            ("bits_per_second", "unit_nll", "seconds", bits),
            ("accuracy", "correct", "units", 100),
            ("duration_loss", "duration_loss", "durations", 1),
        ):
            if sums.get(count):
                metrics.log_scalar(name, sums[total] / sums[count] * scale, sums[count], round=6)
        if sums.get("ntokens"):
            metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["nll_loss"].avg))

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Every logged value is a sum."""
        return True


def _duration_loss(said: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the distances in frames, and how many units there are; 0 frames stand for boundaries and padding."""
    counted = frames.gt(0)
    said = _precise(said)
    return ((said - frames.to(said)).abs() * counted).sum(), counted.sum()


def _precise(values: Tensor) -> Tensor:
    """Losses are summed in fp32, or in fp64 where the model is."""
    return values if values.dtype == torch.float64 else values.float()
