"""The autoregressive speech decoder of duplex models: hidden states of a language model to codes of an audio codec."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.attention import causal_attention
from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.linear import Linear


@dataclass
class SpeechDecoderOptions:
    """Shape and training of a speech decoder, by the published names.

    Attributes:
        max_length_causal_mask: greatest number of frames; rows of the learned positions.
        cond_on_prev_audio_tokens: whether the codes of the frame before are read.
        cfg_unconditional_prob: probability of training a row without the language model's states; ``None`` for a
            decoder without classifier-free guidance (Ho and Salimans 2022).
        cfg_scale: of guidance: 1 for none.
        detach_input: whether gradients stop before the language model.
    """

    d_model: int = 768
    d_ffn: int = 3072
    n_layers: int = 12
    sa_n_heads: int = 12
    kernel_size: int = 3
    p_dropout: float = 0.0
    p_dropout_out: float = 0.0
    is_causal: bool = True
    use_learnable_pos_emb: bool = False
    apply_norm_out: bool = False
    max_length_causal_mask: int = 4096
    cond_on_prev_audio_tokens: bool = True
    cfg_unconditional_prob: float | None = None
    cfg_scale: float = 2.5
    detach_input: bool = False
    has_xattn: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> SpeechDecoderOptions:
        """The options of a published configuration; raises :class:`InputError` for what is not supported."""
        unused = {"xa_d_memory", "xa_n_heads", "apply_norm_to_cond", "remove_self_attention"}
        known = {own.name for own in fields(cls)}
        unknown = sorted(set(config) - known - unused)
        if unknown:
            raise InputError(f"speech_decoder: unknown option(s) {', '.join(unknown)}")
        made = cls(**{name: value for name, value in config.items() if name in known})
        if made.has_xattn or not made.is_causal:
            raise InputError("speech_decoder: has_xattn: true and is_causal: false are not supported")
        if made.d_model % made.sa_n_heads:
            raise InputError(f"speech_decoder: d_model {made.d_model} is no multiple of sa_n_heads {made.sa_n_heads}")
        return made


@dataclass
class SpeechDecoderState:
    """What a decoder remembers of the frames it has read: keys, values, and the inputs that convolutions still need."""

    cache: DecoderCache
    tails: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    inputs: deque[Tensor] = field(default_factory=deque)  # of single frames (B, 1, D), where positions may run out


class _CausalConv(nn.Module):
    """Convolution over time of ``(B, T, C)`` that sees no later frame; named as in the published weights."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, bias=False)
        self.past = kernel - 1

    def forward(self, x: Tensor, state: SpeechDecoderState | None, place: tuple[int, str]) -> Tensor:
        x = x.transpose(1, 2)
        if state is None:
            x = F.pad(x, (self.past, 0))
        else:
            tail = state.tails.get(place)
            x = torch.cat([x.new_zeros(*x.shape[:2], self.past) if tail is None else tail, x], 2)
            state.tails[place] = x[..., x.size(2) - self.past :]
        made: Tensor = self.conv(x).transpose(1, 2)
        return made


class _SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv_net = Linear(dim, 3 * dim, bias=False)
        self.o_net = Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, state: SpeechDecoderState | None, layer: int) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in self.qkv_net(x).unflatten(-1, (3, self.heads, -1)).unbind(2))
        mask = None
        if state is not None:
            k, v = state.cache.update(layer, "self", k, v)
            mask = state.cache.mask
        made: Tensor = self.o_net(causal_attention(q, k, v, mask).transpose(1, 2).flatten(2))
        return made


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.proj = _CausalConv(dim, hidden, kernel)
        self.o_net = _CausalConv(hidden, dim, kernel)

    def forward(self, x: Tensor, state: SpeechDecoderState | None, layer: int) -> Tensor:
        hidden = F.gelu(self.proj(x, state, (layer, "proj")), approximate="tanh")
        made: Tensor = self.o_net(hidden, state, (layer, "o_net"))
        return made


class _Layer(nn.Module):
    def __init__(self, options: SpeechDecoderOptions) -> None:
        super().__init__()
        dim = options.d_model
        self.norm_self = nn.LayerNorm(dim, bias=False)
        self.self_attention = _SelfAttention(dim, options.sa_n_heads)
        self.norm_pos_ff = nn.LayerNorm(dim, bias=False)
        self.pos_ff = _FeedForward(dim, options.d_ffn, options.kernel_size)
        self.dropout = options.p_dropout

    def forward(self, x: Tensor, state: SpeechDecoderState | None, layer: int) -> Tensor:
        attended = self.self_attention(self.norm_self(x), state, layer)
        x = x + F.dropout(attended, self.dropout, self.training)
        return x + F.dropout(self.pos_ff(self.norm_pos_ff(x), state, layer), self.dropout, self.training)


class _Decoder(nn.Module):
    """Layers, positions and the last normalisation; published as ``t5_decoder``."""

    def __init__(self, options: SpeechDecoderOptions) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(options) for _ in range(options.n_layers))
        self.position_embeddings = (
            nn.Embedding(options.max_length_causal_mask, options.d_model) if options.use_learnable_pos_emb else None
        )
        self.norm_out = nn.LayerNorm(options.d_model, bias=False) if options.apply_norm_out else nn.Identity()


class SpeechDecoder(nn.Module):
    """NeMo's ``TransformerARSpeechDecoder``: a causal transformer with convolutions of its own over frames.

    Parameters are named as in the published weights, whose masks (``…causal_mask``) are skipped.

    Args:
        options: see :class:`SpeechDecoderOptions`.
        hidden_dim: width of the language model.
        codebooks: K.
        codes: codes of a codebook, those of control included.
    """

    def __init__(self, options: SpeechDecoderOptions, hidden_dim: int, codebooks: int, codes: int) -> None:
        super().__init__()
        self.options, self.codebooks = options, codebooks
        dim = options.d_model
        self.audio_embeddings = nn.ModuleList(nn.Embedding(codes, dim) for _ in range(codebooks))
        self.input_proj = Linear(hidden_dim, dim) if hidden_dim != dim else nn.Identity()
        self.t5_decoder = _Decoder(options)
        self.final_proj = Linear(dim, codebooks * codes)

    @property
    def guided(self) -> bool:
        """Whether it was trained for classifier-free guidance."""
        return self.options.cfg_unconditional_prob is not None

    def make_state(
        self, capacity: int, device: torch.device | str = "cpu", rolling: bool = False
    ) -> SpeechDecoderState:
        """A state for ``capacity`` frames; rolling, for that many frames of context without an end."""
        if self.t5_decoder.position_embeddings is not None and not rolling:
            most = self.options.max_length_causal_mask
            if capacity > most:
                raise InputError(
                    f"{capacity} frames, the speech decoder has positions for {most}: shorten the recording"
                )
        return SpeechDecoderState(DecoderCache(capacity, device=device, rolling=rolling))

    def forward(self, hidden: Tensor, codes: Tensor, state: SpeechDecoderState | None = None) -> Tensor:
        """Predict the codes of each frame.

        In training, rows lose the language model's states with ``cfg_unconditional_prob``. In evaluation a model for
        guidance runs with and without them, and answers ``(1 - cfg_scale) · without + cfg_scale · with``.

        Args:
            hidden: of the language model ``(B, T, H)``.
            codes: of the frame before, ``(B, T, K)``.
            state: of earlier frames, extended by this call.

        Returns:
            Logits ``(B, T, K, C)``.
        """
        options = self.options
        hidden = hidden.detach() if options.detach_input else hidden
        known = self.input_proj(hidden)
        guide = self.guided and not self.training and options.cfg_scale != 1
        if options.cfg_unconditional_prob is not None and self.training:
            keep = torch.rand(len(known), 1, 1, device=known.device) >= options.cfg_unconditional_prob
            known = known * keep
        before: Tensor | float = 0.0
        if options.cond_on_prev_audio_tokens:
            books = [embed(codes[..., book]) for book, embed in enumerate(self.audio_embeddings)]
            before = torch.stack(books).mean(0)
        x = known + before
        if guide:
            x = torch.cat([x, torch.zeros_like(known) + before])
        logits = self._decode(x, state)
        if guide:
            known_logits, other = logits.chunk(2)
            logits = (1 - options.cfg_scale) * other + options.cfg_scale * known_logits
        return logits

    def _decode(self, x: Tensor, state: SpeechDecoderState | None) -> Tensor:
        options, decoder = self.options, self.t5_decoder
        if decoder.position_embeddings is not None:
            x, positions, skip = self._placed(x, state)
            x = x + decoder.position_embeddings(positions)
        else:
            skip = 0
            if state is not None:
                state.cache.extend(x.size(1))
        x = F.dropout(x, options.p_dropout, self.training)
        for number, layer in enumerate(decoder.layers):
            x = layer(x, state, number)
        x = F.dropout(decoder.norm_out(x[:, skip:]), options.p_dropout_out, self.training)
        return self.final_proj(x).unflatten(-1, (self.codebooks, -1))

    def _placed(self, x: Tensor, state: SpeechDecoderState | None) -> tuple[Tensor, Tensor, int]:
        """Inputs and their positions; where these run out, the latest half is read again from position 0.

        Returns:
            Inputs, positions, and how many of them were read before.
        """
        most = self.options.max_length_causal_mask
        if state is None:
            if x.size(1) > most:
                raise InputError(f"{x.size(1)} frames, the speech decoder has positions for {most}: shorten them")
            return x, torch.arange(x.size(1), device=x.device), 0
        fresh, cache = x.size(1), state.cache
        limit = min(most, cache.capacity)
        if cache.rolling:  # remembered only where it may be needed again
            state.inputs.extend(x.split(1, 1))
            while len(state.inputs) > max(limit // 2, fresh):
                state.inputs.popleft()
            if cache.length + fresh > limit:
                cache.clear()
                state.tails.clear()
                x = torch.cat(list(state.inputs), 1)
        cache.extend(x.size(1))
        return x, cache.positions, x.size(1) - fresh
