"""The loss of duplex models: the next token of the text channel, and the codes of the agent's sound."""

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.dataclass import FairseqDataclass
from torch import Tensor

from speechdlm_ext.criterions.summed_criterion import SummedCriterion, precise
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.duplex_frames import IGNORED
from speechdlm_ext.neural_types import LabelsType, LogitsType, LossType, NeuralType, typecheck


@dataclass
class DuplexCriterionConfig(FairseqDataclass):
    """Options of the loss."""

    text_loss_weight: float = field(default=3.0, metadata={"help": "weight of the text channel's cross entropy"})
    audio_loss_weight: float = field(
        default=4.0, metadata={"help": "weight of the codes' cross entropy, the mean over codebooks"}
    )


@register_criterion("duplex_criterion", dataclass=DuplexCriterionConfig)
class DuplexCriterion(SummedCriterion):
    """``text_loss_weight`` · text + ``audio_loss_weight`` · codes / K, per frame.

    Frames beyond a row's end count neither in the sum nor in the number that it is divided by; the public code sums
    over them, too. The sample size is the number of frames, so that an update does not depend on its batches.

    In the logs, per frame and in nats as the public code has them: ``loss``, ``text_loss``, ``audio_loss``;
    ``text_accuracy`` of frames with text, BOS or EOS and ``code_accuracy``, in percent.
    """

    figures = (
        ("loss", "loss", "frames", "as it is"),
        ("text_loss", "text_loss", "frames", "as it is"),
        ("audio_loss", "audio_loss", "frames", "as it is"),
        ("text_accuracy", "correct_text", "text", "percent"),
        ("code_accuracy", "correct_codes", "codes", "percent"),
    )

    def __init__(self, task: Any, text_loss_weight: float, audio_loss_weight: float) -> None:
        super().__init__(task)
        for name, weight in (("text", text_loss_weight), ("audio", audio_loss_weight)):
            if not weight >= 0:
                raise InputError(f"--{name}-loss-weight {weight}: 0 or more is expected")
        self.text_loss_weight, self.audio_loss_weight = text_loss_weight, audio_loss_weight
        self.text_pad = task.ids.text_pad

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, Any, dict[str, Any]]:
        """The loss of a batch, the sample size by which gradients are divided, and the sums for the logs."""
        text_logits, code_logits, frames = model(**sample["net_input"])
        text, codes = frames.text_labels, frames.code_labels
        text_loss, audio_loss = self.losses(text_logits, code_logits, text, codes)
        loss = self.text_loss_weight * text_loss + self.audio_loss_weight * audio_loss
        size = frames.lengths.sum()
        said = text.ne(IGNORED) & text.ne(self.text_pad)
        coded = codes.ne(IGNORED)
        logs = {
            "loss": loss.detach(),
            "text_loss": text_loss.detach(),
            "audio_loss": audio_loss.detach(),
            "correct_text": (text_logits.argmax(-1).eq(text) & said).sum(),
            "text": said.sum(),
            "correct_codes": (code_logits.argmax(-1).eq(codes) & coded).sum(),
            "codes": coded.sum(),
            "frames": size,
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": size,
        }
        return loss, size, logs

    @typecheck(
        {
            "text_logits": NeuralType(("B", "T", "D"), LogitsType()),
            "code_logits": NeuralType(("B", "T", "C", "D"), LogitsType()),
            "text": NeuralType(("B", "T"), LabelsType()),
            "codes": NeuralType(("B", "T", "C"), LabelsType()),
        },
        {"text_loss": NeuralType((), LossType()), "audio_loss": NeuralType((), LossType())},
        positional=True,
    )
    def losses(self, text_logits: Tensor, code_logits: Tensor, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropies in nats, summed over frames; that of the codes is the mean over codebooks.

        Args:
            text_logits, code_logits: ``(B, T, V)`` and ``(B, T, K, C + 3)``.
            text, codes: labels ``(B, T)`` and ``(B, T, K)``, :data:`.IGNORED` beyond a row's end.
        """
        text_loss = F.cross_entropy(precise(text_logits).flatten(0, 1), text.flatten(), reduction="sum")
        audio_loss = F.cross_entropy(precise(code_logits).flatten(0, 2), codes.flatten(), reduction="sum")
        return text_loss, audio_loss / codes.size(2)
