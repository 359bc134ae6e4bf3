"""The loss of SALM: cross entropy of the assistant's tokens."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.dataclass import FairseqDataclass
from omegaconf import II
from torch import Tensor, nn

from speechdlm_ext.criterions.summed_criterion import SummedCriterion, precise
from speechdlm_ext.data.splicing import IGNORED
from speechdlm_ext.errors import InputError
from speechdlm_ext.neural_types import (
    AcousticEncodedRepresentation,
    LabelsType,
    LogitsType,
    LossType,
    NeuralType,
    typecheck,
)


@dataclass
class SALMCriterionConfig(FairseqDataclass):
    """Options of the loss."""

    sentence_avg: bool = II("optimization.sentence_avg")
    ctc_weight: float = field(
        default=0.0,
        metadata={"help": "weight of a CTC loss that brings embeddings of audio near those of the answer's tokens"},
    )
    ctc_updates: int = field(
        default=0, metadata={"help": "train with the CTC loss alone for so many updates, without the language model"}
    )


@register_criterion("salm_criterion", dataclass=SALMCriterionConfig)
class SALMCriterion(SummedCriterion):
    """Cross entropy of the assistant's tokens, divided by their number over the whole update.

    With ``ctc_weight`` a CTC loss is added, for conversations of one audio and one answer: the symbols are the answers'
    tokens in the batch, scored by the cosine of audio embeddings with the language model's token embeddings (times a
    learned scale), and a learned blank. What the audio says then looks to a frozen language model like text.

    In the logs: ``loss`` and ``nll_loss`` in bits per token, ``ppl``, ``accuracy`` in percent of tokens, ``ctc_loss``
    in nats per token.
    """

    figures = (
        ("loss", "loss", "sample_size", "bits"),
        ("nll_loss", "nll_loss", "predicted", "bits"),
        ("accuracy", "correct", "predicted", "percent"),
        ("ctc_loss", "ctc_loss", "ntokens", "as it is"),
    )

    def __init__(self, task: Any, sentence_avg: bool, ctc_weight: float, ctc_updates: int) -> None:
        super().__init__(task)
        if ctc_weight < 0 or ctc_updates < 0 or (ctc_updates and not ctc_weight):
            raise InputError(f"--ctc-weight {ctc_weight} --ctc-updates {ctc_updates}: 0 or more, and a weight with it")
        self.sentence_avg, self.ctc_weight, self.ctc_updates = sentence_avg, ctc_weight, ctc_updates
        if ctc_weight:
            self.blank = nn.Parameter(torch.randn(task.model.perception.output_dim))
            self.scale = nn.Parameter(torch.tensor(2.5))  # logarithm

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss of a batch, the sample size by which gradients are divided, and the sums for the logs."""
        aligned_only = self.ctc_weight and model.training and self.task.model.num_updates < self.ctc_updates
        logits, extra = model(**sample["net_input"], predict=not aligned_only)
        size = sample["nsentences"] if self.sentence_avg else sample["ntokens"]
        logs: dict[str, Any] = {"ntokens": sample["ntokens"], "nsentences": sample["nsentences"], "sample_size": size}
        loss: Any = 0.0
        if self.ctc_weight and "words" in sample:
            ctc = self.align(extra["audio"], sample)
            loss = self.ctc_weight * ctc
            logs["ctc_loss"] = ctc.detach()
        if aligned_only:
            return loss, size, {**logs, "loss": loss.detach()}
        target = extra["target"]
        nll = self.cross_entropy(logits, target)
        loss = loss + nll
        logs |= {"loss": loss.detach(), "nll_loss": nll.detach(), "correct": logits.argmax(-1).eq(target).sum()}
        return loss, size, {**logs, "predicted": sample["ntokens"]}

    @typecheck(
        {"logits": NeuralType(("B", "T", "D"), LogitsType()), "target": NeuralType(("B", "T"), LabelsType())},
        {"loss": NeuralType((), LossType())},
        positional=True,
    )
    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """The sum over positions, in nats, of logits (B, P, V) and tokens (B, P), :data:`.IGNORED` where none is."""
        return F.cross_entropy(precise(logits).flatten(0, 1), target.flatten(), ignore_index=IGNORED, reduction="sum")

    @typecheck(
        {"embeddings": NeuralType(("B", "T", "D"), AcousticEncodedRepresentation()), "sample": NeuralType()},
        {"loss": NeuralType((), LossType())},
        positional=True,
    )
    def align(self, embeddings: Tensor, sample: dict[str, Any]) -> Tensor:
        """The CTC loss (Graves et al. 2006) of audio embeddings (A, F, H) and the answers' tokens, summed, in nats.

        Args:
            sample: ``words``, ``answers``, ``answer_lens`` and ``frames`` as :class:`.ConversationDataset` makes them.
        """
        words = self.task.model.embed_tokens(sample["words"])
        symbols = F.normalize(torch.cat([self.blank.unsqueeze(0).to(words.dtype), words]).float(), dim=-1)
        scores = F.normalize(embeddings.float(), dim=-1) @ symbols.T * self.scale.float().exp()
        return F.ctc_loss(
            scores.log_softmax(-1).transpose(0, 1),
            sample["answers"],
            sample["frames"],  # lists, which stay on the CPU
            sample["answer_lens"],
            reduction="sum",
            zero_infinity=True,
        )
