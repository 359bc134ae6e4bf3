"""The loss of unit language models: the next unit, and how long the one that was read goes on."""

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.dataclass import FairseqDataclass
from omegaconf import II
from torch import Tensor

from speechdlm_ext.criterions.summed_criterion import SummedCriterion, precise
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
class UnitLMCriterion(SummedCriterion):
    """Cross entropy of the next unit or boundary, plus the L1 distance of durations in frames.

    Every sum is over tokens, and the sample size is their number, so that an update does not depend on how its batches
    were composed. Label smoothing is fairseq's: ``1 - eps`` on the target and ``eps / K`` on each of the other K rows.

    In the logs: ``loss``, what is trained on, and ``nll_loss``, the cross entropy, in bits per token, EOS included
    (what ``fairseq-eval-lm`` prints); ``ppl`` of the latter; ``bits_per_unit``, of units alone; ``bits_per_second`` of
    audio, the same bits for the seconds that the units last (comparable between codebooks), where these are known;
    ``accuracy`` in percent of units; ``duration_loss`` in frames.
    """

    figures = (
        ("loss", "loss", "sample_size", "bits"),
        ("nll_loss", "nll_loss", "ntokens", "bits"),
        ("bits_per_unit", "unit_nll", "units", "bits"),
        ("bits_per_second", "unit_nll", "seconds", "bits"),
        ("accuracy", "correct", "units", "percent"),
        ("duration_loss", "duration_loss", "durations", "as it is"),
    )

    def __init__(self, task: Any, sentence_avg: bool, label_smoothing: float, duration_loss_weight: float) -> None:
        super().__init__(task)
        if not 0 <= label_smoothing < 1:
            raise InputError(f"--label-smoothing {label_smoothing}: a share from 0 on, below 1, is expected")
        if task.cfg.durations and not duration_loss_weight > 0:
            raise InputError(f"--duration-loss-weight {duration_loss_weight}: expected above 0 with --durations")
        self.sentence_avg = sentence_avg
        self.label_smoothing = label_smoothing
        self.duration_loss_weight = duration_loss_weight
        self.eos = task.target_dictionary.eos()
        self.frame_rate = task.frame_rate

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss of a batch, the sample size by which gradients are divided, and the sums for the logs."""
        logits, extra = model(**sample["net_input"])
        logits, target = precise(logits.flatten(0, -2)), sample["target"].flatten()
        nll = F.cross_entropy(logits, target, ignore_index=self.padding_idx, reduction="none")  # (B·T,)
        loss = nll.sum()
        is_unit = target.ne(self.padding_idx) & target.ne(self.eos)
        logs: dict[str, Any] = {
            "nll_loss": loss.detach(),
            "unit_nll": nll.detach().where(is_unit, 0.0).sum(),
            "correct": (logits.argmax(-1).eq(target) & is_unit).sum(),
            "units": sample["units"],
        }
        if self.label_smoothing:  # torch's spreads its share over the target, too
            share = self.label_smoothing * logits.size(-1) / (logits.size(-1) - 1)
            loss = F.cross_entropy(
                logits, target, ignore_index=self.padding_idx, reduction="sum", label_smoothing=min(share, 1.0)
            )
        if self.frame_rate:
            logs["seconds"] = sample["frames"] / self.frame_rate
        if extra["durations"] is not None:
            frames = sample["durations"]  # 0 for BOS and padding
            predicted = precise(extra["durations"])
            distance = ((predicted - frames).abs() * frames.gt(0)).sum()
            loss = loss + self.duration_loss_weight * distance
            logs.update(duration_loss=distance.detach(), durations=sample["timed"])
        sample_size = sample["nsentences"] if self.sentence_avg else sample["ntokens"]
        logs.update(
            loss=loss.detach(), ntokens=sample["ntokens"], nsentences=sample["nsentences"], sample_size=sample_size
        )
        return loss, sample_size, logs
