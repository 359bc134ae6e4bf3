"""The loss of unit-to-codec models: codec tokens, ends of units, and the end."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.dataclass import FairseqDataclass
from omegaconf import II
from torch import Tensor

from speechdlm_ext.criterions.summed_criterion import SummedCriterion, precise
from speechdlm_ext.data.unit_codec_dictionary import EOP


@dataclass
class UnitToCodecCriterionConfig(FairseqDataclass):
    """Options of the loss."""

    sentence_avg: bool = II("optimization.sentence_avg")


@register_criterion("unit_to_codec_criterion", dataclass=UnitToCodecCriterionConfig)
class UnitToCodecCriterion(SummedCriterion):
    """Cross entropy of what a unit sounds like and how long it lasts.

    In the logs: ``loss`` in bits per target, ``ppl``; ``codec_accuracy`` of codec tokens and ``eop_accuracy`` of ends
    of units, in percent.
    """

    figures = (
        ("loss", "loss", "sample_size", "bits"),
        ("nll_loss", "nll_loss", "ntokens", "bits"),
        ("codec_accuracy", "correct_codec", "codec", "percent"),
        ("eop_accuracy", "correct_ends", "ends", "percent"),
    )

    def __init__(self, task: Any, sentence_avg: bool) -> None:
        super().__init__(task)
        self.sentence_avg = sentence_avg
        self.eop = task.target_dictionary.token_to_id[EOP]
        self.first_codec = int(task.target_dictionary.codec_ids[0])

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss of a batch, the sample size by which gradients are divided, and the sums for the logs."""
        logits, _ = model(**sample["net_input"])
        logits, target = precise(logits.flatten(0, -2)), sample["target"].flatten()
        loss = F.cross_entropy(logits, target, ignore_index=self.padding_idx, reduction="sum")
        correct = logits.argmax(-1).eq(target)
        codec = target.ge(self.first_codec) & target.ne(self.padding_idx)
        ends = target.eq(self.eop)
        size = sample["nsentences"] if self.sentence_avg else sample["ntokens"]
        logs = {
            "loss": loss.detach(),
            "nll_loss": loss.detach(),
            "correct_codec": (correct & codec).sum(),
            "codec": codec.sum(),
            "correct_ends": (correct & ends).sum(),
            "ends": ends.sum(),
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": size,
        }
        return loss, size, logs
