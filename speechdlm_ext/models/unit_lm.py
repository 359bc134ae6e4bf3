"""Transformer language model of units: DP-SLM's architecture (RMSNorm, rotary positions, SwiGLU, no biases)."""

from dataclasses import dataclass, field
from typing import Any, Optional

import torch
import torch.nn.functional as F
from fairseq.dataclass import FairseqDataclass
from fairseq.models import register_model, register_model_architecture
from omegaconf import II
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechdlm_ext.errors import InputError
from speechdlm_ext.models.unit_language_model import UnitDecoder, UnitLanguageModel
from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.linear import Linear
from speechdlm_ext.modules.rotary_layer import (
    Packing,
    Rotary,
    RotaryLayer,
    can_pack,
    rotary_angles,
    rotary_table,
)

INIT_STD = 0.02


@dataclass
class UnitLMConfig(FairseqDataclass):
    """Options of the model; the defaults are those of ``unit_lm_base``."""

    decoder_embed_dim: int = field(default=512, metadata={"help": "embedding dimension"})
    decoder_layers: int = field(default=8, metadata={"help": "number of layers"})
    decoder_attention_heads: int = field(default=8, metadata={"help": "number of attention heads"})
    decoder_kv_heads: Optional[int] = field(
        default=None, metadata={"help": "heads of keys and values (default: as many as --decoder-attention-heads)"}
    )
    decoder_head_dim: Optional[int] = field(
        default=None, metadata={"help": "dimension of a head (default: the embedding's, divided among the heads)"}
    )
    decoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "inner dimension of the feed-forward blocks"})
    dropout: float = field(
        default=0.1, metadata={"help": "dropout probability, after attention and feed-forward blocks"}
    )
    norm_eps: float = field(default=1e-6, metadata={"help": "what RMSNorm adds to the mean square"})
    rope_theta: float = field(default=10000.0, metadata={"help": "base of the wavelengths of rotary positions"})
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "recompute activations in the backward pass: less memory, more time"}
    )
    durations: bool = II("task.durations")


class UnitLMDecoder(UnitDecoder):
    """The layers of the transformer; parameters are named as in the published checkpoints.

    Args:
        args: options as in :class:`UnitLMConfig`.
        dictionary: the vocabulary.
    """

    def __init__(self, args: Any, dictionary: Any) -> None:
        super().__init__(dictionary, args.decoder_embed_dim, args.durations)
        self.args = args
        # Reading a configuration takes longer than an attribute, and torch.compile cannot look into it.
        self.checkpointed, self.rope_theta = args.checkpoint_activations, float(args.rope_theta)
        dim, heads = args.decoder_embed_dim, args.decoder_attention_heads
        self.head_dim = args.decoder_head_dim or dim // heads
        self.tok_embeddings = nn.Embedding(len(dictionary), dim)
        self.layers = nn.ModuleList(
            RotaryLayer(
                dim,
                args.decoder_ffn_embed_dim,
                heads,
                args.decoder_kv_heads or heads,
                self.head_dim,
                args.norm_eps,
                args.dropout,
            )
            for _ in range(args.decoder_layers)
        )
        self.norm = nn.RMSNorm(dim, args.norm_eps)
        self.output = Linear(dim, len(dictionary), bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal weights; those that end a residual branch smaller, by the number of branches (Radford et al. 2019)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                ends_branch = name.endswith(("wo.weight", "w2.weight"))
                nn.init.normal_(parameter, std=INIT_STD / (2 * len(self.layers)) ** 0.5 if ends_branch else INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def extract_features(
        self,
        tokens: Tensor,
        cache: Optional[DecoderCache] = None,
        src_lengths: Optional[Tensor] = None,
        token_index: Optional[Tensor] = None,
    ) -> Tensor:
        """See :meth:`UnitDecoder.extract_features`."""
        x = self.tok_embeddings(self._indices(tokens))
        rows, length, dim = x.shape
        if cache is not None:
            rotary = rotary_angles(cache.positions, self.head_dim, self.rope_theta, x.dtype)
            return self._run_layers(x, rotary, cache=cache)
        rotary = rotary_table(length, self.head_dim, self.rope_theta, x.device, x.dtype)
        if token_index is None or src_lengths is None or len(token_index) == rows * length or not can_pack(x):
            return self._run_layers(x, rotary)
        cos, sin = (table[token_index % length] for table in rotary)
        packing = Packing(F.pad(src_lengths.cumsum(0), (1, 0)).int(), length)
        states = self._run_layers(x.flatten(0, 1)[token_index].unsqueeze(0), (cos, sin), packing)
        return states.new_zeros(rows * length, dim).index_copy(0, token_index, states[0]).view_as(x)

    def _run_layers(
        self, x: Tensor, rotary: Rotary, packing: Optional[Packing] = None, cache: Optional[DecoderCache] = None
    ) -> Tensor:
        for number, layer in enumerate(self.layers):
            if self.checkpointed and self.training and torch.is_grad_enabled():
                x = checkpoint(layer, x, rotary, packing, use_reentrant=False)
            else:
                x = layer(x, rotary, packing, cache, number)
        normed: Tensor = self.norm(x)
        return normed

    def make_cache(self, capacity: int, static: bool = False) -> DecoderCache:
        """See :meth:`UnitDecoder.make_cache`."""
        return DecoderCache(capacity, device=self.output.weight.device, rolling=self.rolling, static=static)


@register_model("unit_lm", dataclass=UnitLMConfig)
class UnitLM(UnitLanguageModel):
    """Language model of units after DP-SLM; see :class:`UnitLanguageModel`."""

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "UnitLM":
        """Build a model for ``task`` (fairseq's entry); raises :class:`InputError` for options that contradict."""
        check_heads(args)
        return cls(UnitLMDecoder(args, task.source_dictionary))


def check_heads(args: Any) -> None:
    """Raise :class:`InputError` for numbers of heads and dimensions that do not fit each other."""
    dim, heads = args.decoder_embed_dim, args.decoder_attention_heads
    if not args.decoder_head_dim and dim % heads:
        raise InputError(f"--decoder-embed-dim {dim} is not a multiple of --decoder-attention-heads {heads}")
    if (args.decoder_head_dim or dim // heads) % 2:
        raise InputError(f"heads of dimension {args.decoder_head_dim or dim // heads}: rotary positions turn pairs")
    if heads % (args.decoder_kv_heads or heads):
        raise InputError(f"--decoder-kv-heads {args.decoder_kv_heads} does not divide {heads} attention heads")


@register_model_architecture("unit_lm", "unit_lm_dpslm")
def unit_lm_dpslm(args: Any) -> None:
    """The published shape: 202,378,240 parameters with a codebook of 500 units."""
    set_shape(args, dim=1024, layers=12, heads=16, hidden=4096, dropout=0.15)


@register_model_architecture("unit_lm", "unit_lm_base")
def unit_lm_base(args: Any) -> None:
    """For hundreds of hours of speech: 8 layers of dimension 512."""
    set_shape(args, dim=512, layers=8, heads=8, hidden=2048, dropout=0.1)


@register_model_architecture("unit_lm", "unit_lm_small")
def unit_lm_small(args: Any) -> None:
    """For hours of speech and a laptop: 4 layers of dimension 256."""
    set_shape(args, dim=256, layers=4, heads=4, hidden=1024, dropout=0.1)


def set_shape(args: Any, dim: int, layers: int, heads: int, hidden: int, dropout: float) -> None:
    """The options of an architecture, where they are not given."""
    args.decoder_embed_dim = getattr(args, "decoder_embed_dim", dim)
    args.decoder_layers = getattr(args, "decoder_layers", layers)
    args.decoder_attention_heads = getattr(args, "decoder_attention_heads", heads)
    args.decoder_ffn_embed_dim = getattr(args, "decoder_ffn_embed_dim", hidden)
    args.dropout = getattr(args, "dropout", dropout)
