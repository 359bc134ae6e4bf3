"""The SpeechDLM's loss: next unit, edge unit and duration, for each pair of channels (Nguyen et al. 2022)."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from fairseq import metrics, utils
from fairseq.criterions import register_criterion
from fairseq.dataclass import FairseqDataclass
from omegaconf import II
from torch import Tensor

from speechdlm_ext.criterions.summed_criterion import SummedCriterion, precise, sum_logs
from speechdlm_ext.data.flags import cross_weights
from speechdlm_ext.data.unit_counts import UPDATE_COUNTS
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.prediction import Prediction

# Names of the targets in the logs.
LOG_NAMES = {"next": "general_token", "edge": "edge_token", "duration": "edge_duration"}


@dataclass
class SpeechDLMCriterionConfig(FairseqDataclass):
    """Options of the published criterion."""

    sentence_avg: bool = II("optimization.sentence_avg")
    main_and_cross_weights: Optional[str] = field(
        default="1,0",
        metadata={"help": "weights of predicting the own channel, and the other channels, from each channel"},
    )
    general_unit_loss_weight: float = field(default=0.0, metadata={"help": "weight of the next unit's loss"})
    edge_unit_loss_weight: float = field(default=1.0, metadata={"help": "weight of the edge unit's loss"})
    duration_loss_weight: float = field(default=1.0, metadata={"help": "weight of the duration's L1 loss (frames)"})


class Term(NamedTuple):
    """One target's part for one pair of channels: sums over a batch."""

    loss: Tensor
    correct: Tensor
    counted: int


@register_criterion("speech_dlm_criterion", dataclass=SpeechDLMCriterionConfig)
class SpeechDLMCriterion(SummedCriterion):
    """Weighted sum of up to three losses over pairs (channel, predicted channel).

    - *next*: cross entropy at every frame.
    - *edge*: cross entropy of the unit at each edge (a frame where a run of equal units starts).
    - *duration*: L1 between the predicted and the true length of that run, in frames; with a delayed duration target
      it is read off the frame after the edge, where the edge unit is known. An edge at the last frame of a row then
      has none.

    Edge and duration losses are means over edges, multiplied by the sample size, so that they count like *next*. Both
    are taken over the batch, as published; in training over all batches of the update, on all processes, which the
    task has counted before (:meth:`SpeechDLMTask.begin_update`). The sum over those batches is then the loss of one
    batch that holds them all, so that an update does not depend on ``--update-freq`` and the number of processes; with
    one batch an update it is the published loss.

    In the logs every figure is a mean over its own count, whatever the batches were: ``*_token_loss`` in bits per unit,
    ``*_token_ppl`` the perplexity, ``*_duration_loss`` in frames, ``*_pred_acc`` in percent, for each pair
    ``[channel-predicted]`` and, without prefix, over all channels that predict themselves. ``ppl`` is the perplexity of
    the next unit or, where that is not predicted, of the edge unit; ``loss`` is what is trained on, in bits.
    """

    def __init__(
        self,
        task: Any,
        sentence_avg: bool,
        main_and_cross_weights: str,
        general_unit_loss_weight: float,
        edge_unit_loss_weight: float,
        duration_loss_weight: float,
    ) -> None:
        super().__init__(task)
        self.sentence_avg = sentence_avg
        self.channels = task.channels
        self.targets = task.targets
        self.delayed = task.delayed_duration_target
        self.channel_weights = task.channel_weights
        self.main_weight, self.cross_weight = cross_weights(main_and_cross_weights)
        weights = {
            "next": ("--general-unit-loss-weight", general_unit_loss_weight),
            "edge": ("--edge-unit-loss-weight", edge_unit_loss_weight),
            "duration": ("--duration-loss-weight", duration_loss_weight),
        }
        self.target_weights = {}
        for target in self.targets:
            option, weight = weights[target]
            if not weight > 0:
                raise InputError(
                    f"{option} {weight}: a positive weight is needed, as the task predicts the {target} unit"
                )
            self.target_weights[target] = weight

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, float, dict[str, Any]]:
        """The loss of a batch, the sample size by which gradients are divided, and the sums for the logs.

        Nothing here waits for the device: counts and the positions of edges come from the collater, on the CPU.
        """
        target, counts = sample["target"], sample["counts"]
        nsentences, ntokens = target.size(0), [frames for _, frames, _, _ in counts]
        logs: dict[str, Any] = {"nsentences": nsentences, "ntokens": 0, "sample_size": 0}
        loss = torch.zeros((), device=target.device)
        terms = self._terms(model, sample)
        scales = self._scales(sample.get(UPDATE_COUNTS, counts), next(iter(terms.values())))
        for (channel, predicted), pair in terms.items():
            prefix = f"[{self.channels[channel]}-{self.channels[predicted]}]"
            sample_size = nsentences if self.sentence_avg else ntokens[predicted]
            sizes = {"ntokens": ntokens[predicted], "sample_size": sample_size}
            weight = self.channel_weights[channel] * (self.main_weight if channel == predicted else self.cross_weight)
            for key, size in sizes.items():
                logs[f"{prefix}{key}"] = size
                logs[key] += size
            for name, term in pair.items():
                weighted = term.loss * weight if name == "next" else term.loss * weight * scales[name][predicted]
                loss = loss + weighted * self.target_weights[name]
                share = term.counted if name == "next" else sample_size
                logs[f"{prefix}{LOG_NAMES[name]}_share"] = weight * self.target_weights[name] * share
                self._add(logs, prefix + LOG_NAMES[name], term.loss.detach(), term.correct, term.counted)
                self._add(logs, LOG_NAMES[name], weighted.detach(), term.correct, term.counted)
        logs["loss"] = loss.detach()
        return loss, logs["sample_size"], logs

    def _scales(self, counts: Tensor | list[list[int]], pair: dict[str, Term]) -> dict[str, Tensor]:
        """What to multiply the sums over edges of each channel with, so that they count as a mean at each frame."""
        like = next(iter(pair.values())).loss
        rows, frames, edges, followed = torch.as_tensor(counts, device=like.device).double().unbind(1)
        size = rows if self.sentence_avg else frames
        timed = followed if self.delayed else edges
        return {"edge": (size / edges.clamp(min=1)).to(like), "duration": (size / timed.clamp(min=1)).to(like)}

    @staticmethod
    def _add(logs: dict[str, Any], name: str, *values: Any) -> None:
        for key, value in zip(_SUMS, values, strict=True):
            logs[name + key] = logs.get(name + key, 0) + value

    def _terms(self, model: Any, sample: dict[str, Any]) -> dict[tuple[int, int], dict[str, Term]]:
        """The terms of each pair (channel, predicted channel), by target.

        The model predicts only what a loss needs: units at every frame for *next*, else at edges; durations at edges
        or, delayed, at the frames after them.
        """
        target, counts = sample["target"], sample["counts"]
        edges = tuple(sample["edges"])  # rows, frames and channels, the channels one after the other
        timed = tuple(sample["followed_edges"]) if self.delayed else edges
        edge_counts, timed_counts = [of[2] for of in counts], [of[3 if self.delayed else 2] for of in counts]
        timed_at = (timed[0], timed[1] + int(self.delayed), timed[2])
        everywhere = "next" in self.targets
        heads, _ = model(**sample["net_input"], at=None if everywhere else edges, durations_at=timed_at)
        edge_units = target[edges].split(edge_counts)
        durations = sample["durations"][timed].split(timed_counts)
        pairs: dict[tuple[int, int], dict[str, Term]] = {}
        for offset in range(len(self.channels) if self.cross_weight > 0 else 1):
            head: Prediction = heads[offset]
            at_edges = (head.units[edges] if everywhere else head.units).split(edge_counts)
            at_timed = None if head.durations is None else head.durations.split(timed_counts)
            for predicted in range(len(self.channels)):
                pair = {}
                if everywhere:
                    units = target[:, :, predicted]
                    pair["next"] = self._unit_term(head.units[:, :, predicted], units, counts[predicted][1])
                if "edge" in self.targets:
                    pair["edge"] = self._unit_term(at_edges[predicted], edge_units[predicted], edge_counts[predicted])
                if "duration" in self.targets and at_timed is not None:
                    pair["duration"] = self._duration_term(at_timed[predicted], durations[predicted])
                pairs[(predicted - offset) % len(self.channels), predicted] = pair
        return dict(sorted(pairs.items()))

    def _unit_term(self, logits: Tensor, units: Tensor, counted: int) -> Term:
        """Cross entropy in nats of ``counted`` units ``(…)`` among padding; ``logits`` ``(…, V)``."""
        logits, units = logits.flatten(0, -2), units.flatten()
        loss = F.cross_entropy(precise(logits), units, ignore_index=self.padding_idx, reduction="sum")
        correct = ((logits.argmax(-1) == units) & units.ne(self.padding_idx)).sum()
        return Term(loss, correct, counted)

    @staticmethod
    def _duration_term(predicted: Tensor, frames: Tensor) -> Term:
        """L1 in frames; both ``(N,)``."""
        predicted = precise(predicted)
        loss = F.l1_loss(predicted, frames.to(predicted), reduction="sum")
        return Term(loss, (predicted.round() == frames).sum(), len(frames))

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Log means over all that was seen since the last log; see the class."""
        sums = sum_logs(logging_outputs)
        pairs = [key[: -len("ntokens")] for key in sums if key.startswith("[") and key.endswith("ntokens")]
        # "[A-A]": the same name on both sides of the middle; names may hold hyphens themselves
        own = [pair for pair in pairs if pair[1 : len(pair) // 2] == pair[len(pair) // 2 + 1 : -1]]
        for target, name in LOG_NAMES.items():
            for prefix, parts in [(pair, [pair]) for pair in pairs] + [("", own)]:
                loss, correct, count = (sum(sums.get(p + name + k, 0.0) for p in parts) for k in _SUMS)
                if count:
                    unit = 1.0 if target == "duration" else math.log(2)
                    metrics.log_scalar(f"{prefix}{name}_loss", loss / count / unit, count, round=3)
                    metrics.log_scalar(f"{prefix}{name}_pred_acc", 100 * correct / count, count, round=3)
                    if target != "duration":
                        _log_perplexity(f"{prefix}{name}")
        predicted = [
            name for name in ("general_token", "edge_token") if any(sums.get(p + name + "_count") for p in own)
        ]
        if predicted:
            _log_perplexity(predicted[0], "ppl")
        shares = [key for key in sums if key.endswith("_share")]
        for key in (*shares, "sample_size"):
            metrics.log_scalar_sum(f"_{key}", sums.get(key, 0.0))  # not shown
        if sums.get("sample_size"):
            metrics.log_derived("loss", lambda meters: _total_loss(meters, shares))


_SUMS = ("_loss", "_correct", "_count")


def _log_perplexity(name: str, key: str = "") -> None:
    metrics.log_derived(key or f"{name}_ppl", lambda meters: utils.get_perplexity(meters[f"{name}_loss"].avg))


def _total_loss(meters: Any, shares: list[str]) -> float:
    """The training loss in bits, from the means of its parts, so that it does not depend on how batches were cut."""
    total = 0.0
    for share in shares:
        name = share.removesuffix("_share") + "_loss"
        if name in meters:
            in_bits = name.endswith("_token_loss")
            total += meters[f"_{share}"].sum * float(meters[name].avg) / (1.0 if in_bits else math.log(2))
    return round(total / (meters["_sample_size"].sum or 1.0), 5)
