"""The loss of SALM: cross entropy of the assistant's tokens."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from omegaconf import II
from torch import Tensor

from speechdlm_ext.criterions.unit_lm_criterion import log_means, precise
from speechdlm_ext.models.salm import IGNORED


@dataclass
class SALMCriterionConfig(FairseqDataclass):
    """Options of the loss."""

    sentence_avg: bool = II("optimization.sentence_avg")


@register_criterion("salm_criterion", dataclass=SALMCriterionConfig)
class SALMCriterion(FairseqCriterion):
    """Cross entropy of the assistant's tokens, divided by their number over the whole update.

    In the logs: ``loss`` and ``nll_loss`` in bits per token, ``ppl``, and ``accuracy`` in percent of tokens.
    """

    def __init__(self, task: Any, sentence_avg: bool) -> None:
        super().__init__(task)
        self.sentence_avg = sentence_avg

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss of a batch, the sample size by which gradients are divided, and the sums for the logs."""
        logits, extra = model(**sample["net_input"])
        target = extra["target"].flatten()
        # Rows of logits that are not trained on are most of them: they are not made precise.
        trained = target.ne(IGNORED)
        logits, target = precise(logits.flatten(0, 1)[trained]), target[trained]
        loss = F.cross_entropy(logits, target, reduction="sum")
        size = sample["nsentences"] if self.sentence_avg else sample["ntokens"]
        logs = {
            "loss": loss.detach(),
            "nll_loss": loss.detach(),
            "correct": logits.argmax(-1).eq(target).sum(),
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": size,
        }
        return loss, size, logs

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Log means over all that was seen since the last log; see the class."""
        log_means(
            logging_outputs,
            ("loss", "loss", "sample_size", "bits"),
            ("nll_loss", "nll_loss", "ntokens", "bits"),
            ("accuracy", "correct", "ntokens", "percent"),
        )

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Every logged value is a sum."""
        return True
