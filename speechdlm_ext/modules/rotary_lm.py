"""Our own rotary decoder as a causal language model laid out as those of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.linear import Linear
from speechdlm_ext.modules.rotary_layer import RotaryLayer, rotary_angles, rotary_table

ROTARY = "rotary"  # model_type in config.json


@dataclass(frozen=True)
class RotaryConfig:
    """Shape of :class:`RotaryLM`, by the names that transformers gives a Llama's."""

    vocab_size: int
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int = 8
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    initializer_range: float = 0.02
    model_type: str = ROTARY

    def __post_init__(self) -> None:
        heads = self.num_attention_heads
        if self.hidden_size % (2 * heads) or heads % self.num_key_value_heads:
            raise InputError(
                f"hidden_size {self.hidden_size}, {heads} heads, {self.num_key_value_heads} of keys: expected a width "
                "that is a multiple of twice the heads, which are a multiple of those of keys"
            )

    def to_dict(self) -> dict[str, Any]:
        """As ``config.json`` has it."""
        return asdict(self)


class RotaryDecoder(nn.Module):
    """The layers of our own decoder (those of the unit language model), from embeddings to states."""

    def __init__(self, config: RotaryConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointed = False
        dim, heads = config.hidden_size, config.num_attention_heads
        self.head_dim = dim // heads
        self.embed_tokens = nn.Embedding(config.vocab_size, dim)
        self.layers = nn.ModuleList(
            RotaryLayer(
                dim,
                config.intermediate_size,
                heads,
                config.num_key_value_heads,
                self.head_dim,
                config.rms_norm_eps,
                0.0,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(dim, config.rms_norm_eps)

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None = None, past_key_values: DecoderCache | None = None
    ) -> SimpleNamespace:
        """States ``last_hidden_state`` (B, T, D); see :func:`.run_backbone` for the arguments."""
        x, cache = inputs_embeds, past_key_values
        length = x.size(1)
        if cache is None:
            rotary = rotary_table(length, self.head_dim, self.config.rope_theta, x.device, x.dtype)
        else:
            rotary = rotary_angles(cache.extend(length).positions, self.head_dim, self.config.rope_theta, x.dtype)
        mask = None if attention_mask is None else attention_mask_of(attention_mask.bool(), length, cache)
        for number, layer in enumerate(self.layers):
            if self.checkpointed and self.training and torch.is_grad_enabled():
                x = checkpoint(layer, x, rotary, None, None, number, mask, use_reentrant=False)
            else:
                x = layer(x, rotary, None, cache, number, mask)
        return SimpleNamespace(last_hidden_state=self.norm(x))


def attention_mask_of(present: Tensor, length: int, cache: DecoderCache | None) -> Tensor:
    """What the last ``length`` positions may attend to, (B, 1, T, S): what is present before them, and themselves."""
    keys = present.size(1)
    if cache is not None and cache.length > cache.capacity:
        raise InputError(f"{cache.length} positions with padding in a rolling cache of {cache.capacity}: pad nothing")
    causal = torch.ones(length, keys, dtype=torch.bool, device=present.device).tril(keys - length)
    itself = torch.eye(length, dtype=torch.bool, device=present.device)
    itself = nn.functional.pad(itself, (keys - length, 0))
    return (present[:, None, None, :] & causal) | itself


class RotaryLM(nn.Module):
    """Our own causal language model: what everything runs with where transformers is not installed."""

    def __init__(self, config: RotaryConfig) -> None:
        super().__init__()
        self.config = config
        self.model = RotaryDecoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        std, ends = config.initializer_range, (2 * config.num_hidden_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:  # those that end a residual branch smaller (Radford et al. 2019)
                nn.init.normal_(parameter, std=std / ends if name.endswith(("wo.weight", "w2.weight")) else std)

    def forward(self, inputs_embeds: Tensor, logits_to_keep: int = 0, **kwargs: Any) -> SimpleNamespace:
        """``logits`` (B, T, V), or of the last ``logits_to_keep`` positions; see :func:`.predict_tokens`."""
        states = self.model(inputs_embeds, **kwargs).last_hidden_state
        return SimpleNamespace(logits=self.lm_head(states[:, -logits_to_keep:]))

    def gradient_checkpointing_enable(self, **unused: Any) -> None:
        """Recompute activations in the backward pass: less memory, more time."""
        self.model.checkpointed = True


def rotary_config(values: Mapping[str, Any], where: str) -> RotaryConfig:
    """Of ``config.json``; raises :class:`InputError`, which names ``where``, for what is missing or not known."""
    known = {field.name for field in fields(RotaryConfig)}
    if unknown := sorted(set(values) - known):
        raise InputError(f"{where}: {unknown[0]} is not known; a {ROTARY} decoder has {', '.join(sorted(known))}")
    if "vocab_size" not in values:
        raise InputError(f"{where}: vocab_size is missing")
    return RotaryConfig(**values)
