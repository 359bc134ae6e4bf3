"""Acoustic model from units to codec tokens, the transformer of ELLA-V's open implementation (Song et al. 2024)."""

from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.models import register_model, register_model_architecture
from torch import Tensor

from speechdlm_ext.data.unit_codec_dictionary import UnitCodecDictionary
from speechdlm_ext.models.unit_language_model import UnitLanguageModel
from speechdlm_ext.models.unit_lm import UnitLMConfig, UnitLMDecoder, check_heads, set_shape
from speechdlm_ext.modules.linear import Linear


@dataclass
class UnitToCodecConfig(UnitLMConfig):
    """Options of the model: those of the unit transformer, which it is; it predicts no durations."""

    dropout: float = field(default=0.0, metadata={"help": "dropout probability, after attention and feed-forward"})
    durations: bool = False


class UnitToCodecDecoder(UnitLMDecoder):
    """The unit transformer over units and codec tokens; the output has a bias, as in the published checkpoints."""

    def __init__(self, args: Any, dictionary: UnitCodecDictionary) -> None:
        super().__init__(args, dictionary)
        self.output = Linear(args.decoder_embed_dim, len(dictionary))
        self.reset_parameters()


@register_model("unit_to_codec", dataclass=UnitToCodecConfig)
class UnitToCodec(UnitLanguageModel):
    """``model(src_tokens)`` takes ids ``(B, T)`` of a :class:`UnitCodecDictionary` to logits ``(B, T, V)``."""

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "UnitToCodec":
        """Build a model for ``task`` (fairseq's entry); raises :class:`InputError` for options that contradict."""
        check_heads(args)
        return cls(UnitToCodecDecoder(args, task.source_dictionary))

    @property
    def dictionary(self) -> UnitCodecDictionary:
        """Its vocabulary."""
        dictionary: UnitCodecDictionary = self.decoder.dictionary
        return dictionary

    def forward(self, src_tokens: Tensor, src_lengths: Optional[Tensor] = None, **kwargs: Any) -> Any:
        """See :meth:`UnitDecoder.forward`."""
        return self.decoder(src_tokens, src_lengths=src_lengths, **kwargs)


@register_model_architecture("unit_to_codec", "ellav_base")
def ellav_base(args: Any) -> None:
    """The published shape: 12 layers of dimension 1024; 210,777,592 parameters for 500 units and 4096 codec tokens."""
    set_shape(args, dim=1024, layers=12, heads=16, hidden=4096, dropout=0.0)


@register_model_architecture("unit_to_codec", "ellav_small")
def ellav_small(args: Any) -> None:
    """For hours of speech and a laptop: 6 layers of dimension 256."""
    set_shape(args, dim=256, layers=6, heads=4, hidden=1024, dropout=0.0)
