"""Fast Conformer (Gulati et al. 2020, Rekesh et al. 2023) with the names of NeMo's weights; whole or in a stream."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.padding import frame_mask
from speechdlm_ext.neural_types import AcousticEncodedRepresentation, ChannelType, LengthsType, NeuralType, typecheck

_MASKED = -1e4  # added to scores; -inf would make rows of padding not numbers


@dataclass(frozen=True)
class ConformerConfig:
    """The section ``encoder`` or ``modality_adapter`` of a published configuration; what is not named must be absent.

    Attributes:
        feat_in, d_model, n_layers, n_heads, ff_expansion_factor: the shape.
        feat_out: width of a projection after the layers; -1 for none.
        subsampling: ``dw_striding``; without effect for a factor of 1.
        subsampling_factor: frames of features for one of the output, a power of two.
        subsampling_conv_channels: of the convolutions that do it; -1 for ``d_model``.
        causal_downsampling: they see no later frames.
        att_context_size: frames to the left and right, -1 for all; of several pairs the first is used.
        att_context_style: ``regular``, or ``chunked_limited``: a frame attends to its own chunk of right + 1 frames and
            to left / (right + 1) chunks before.
        conv_context_size: ``causal``, or None for as many frames on both sides.
        conv_norm_type: ``batch_norm`` or ``layer_norm``.
        xscaling: multiply the input by the square root of the width.
        use_bias: of linear layers and convolutions in the layers.
    """

    feat_in: int
    d_model: int
    n_layers: int
    n_heads: int = 4
    feat_out: int = -1
    subsampling: str = "dw_striding"
    subsampling_factor: int = 8
    subsampling_conv_channels: int = -1
    causal_downsampling: bool = False
    ff_expansion_factor: int = 4
    att_context_size: Any = (-1, -1)
    att_context_style: str = "regular"
    conv_kernel_size: int = 9
    conv_context_size: Any = None
    conv_norm_type: str = "batch_norm"
    xscaling: bool = True
    use_bias: bool = True
    dropout: float = 0.1
    dropout_att: float = 0.0
    dropout_emb: float = 0.0
    dropout_pre_encoder: float = 0.1

    @property
    def context(self) -> tuple[int, int]:
        """Frames to the left and to the right."""
        size = self.att_context_size
        left, right = size[0] if isinstance(size[0], (list, tuple)) else size
        return int(left), int(right)

    @property
    def chunk(self) -> int:
        """Frames that are computed together in a stream."""
        return self.context[1] + 1 if self.att_context_style == "chunked_limited" else 1

    @property
    def causal(self) -> bool:
        """Whether no frame depends on a later chunk, so that it can be streamed."""
        looks_ahead = self.context[1] != 0 and self.att_context_style != "chunked_limited" or self.context[1] < 0
        striding = self.causal_downsampling or self.subsampling_factor == 1
        return striding and not looks_ahead and self.conv_context_size == "causal"


# Options of published configurations that must have these values, or change nothing in what is computed here.
_FIXED: dict[str, Any] = {"self_attention_model": "rel_pos", "untie_biases": True, "reduction": None}
_WITHOUT_EFFECT = {
    "_target_", "pos_emb_max_len", "stochastic_depth_drop_prob", "stochastic_depth_mode",
    "stochastic_depth_start_layer",
    "att_context_probs", "global_tokens", "global_tokens_spacing", "global_attn_separate", "reduction_position",
    "reduction_factor", "subsampling_conv_chunking_factor", "use_pytorch_sdpa", "use_pytorch_sdpa_backends",
    "sync_max_audio_length", "n_layers_to_keep",
}  # fmt: skip


def conformer_config(options: Mapping[str, Any], where: str = "encoder") -> ConformerConfig:
    """Read a section of a published configuration.

    Raises:
        InputError: an option that is not known, or that this encoder cannot be built with.
    """
    known = {one.name for one in fields(ConformerConfig)}
    for name, only in _FIXED.items():
        if options.get(name, only) != only:
            raise InputError(f"{where}: {name} {options[name]} is not supported, {only} is expected")
    if unknown := sorted(set(options) - known - set(_FIXED) - _WITHOUT_EFFECT):
        raise InputError(f"{where}: {unknown[0]} is not known to this Conformer")
    try:
        config = ConformerConfig(**{name: value for name, value in options.items() if name in known})
    except TypeError as error:
        raise InputError(f"{where}: {str(error).partition('() ')[2]}") from None
    left, right = config.context
    factor = config.subsampling_factor
    problems = {
        f"att_context_style {config.att_context_style}": config.att_context_style not in ("regular", "chunked_limited"),
        f"att_context_size {left}, {right}: not whole chunks": (
            config.att_context_style == "chunked_limited" and left > 0 and left % (right + 1) != 0
        ),
        f"subsampling_factor {factor}: not a power of two": factor < 1 or factor & (factor - 1) != 0,
        f"subsampling {config.subsampling}: dw_striding is expected": (
            factor > 1 and config.subsampling != "dw_striding"
        ),
        f"conv_norm_type {config.conv_norm_type}": config.conv_norm_type not in ("batch_norm", "layer_norm"),
        f"conv_context_size {config.conv_context_size}: causal or null is expected": (
            config.conv_context_size not in (None, "causal")
        ),
        f"d_model {config.d_model} for {config.n_heads} heads": config.d_model % (2 * config.n_heads) != 0,
    }
    for problem, there in problems.items():
        if there:
            raise InputError(f"{where}: {problem}")
    return config


@dataclass
class LayerState:
    """What a layer keeps in a stream: keys and values (B, heads, S, d), and inputs of its convolution (B, D, k - 1)."""

    keys: Tensor | None = None
    values: Tensor | None = None
    inputs: Tensor | None = None


@dataclass
class ConformerState:
    """What an encoder keeps in a stream: of its subsampling, of its layers, and frames of a chunk that is not whole."""

    layers: list[LayerState]
    strides: list[Tensor | None] = field(default_factory=list)
    waiting: Tensor | None = None
    frames: int = 0


class Subsampling(nn.Module):
    """Strided convolutions over time and frequency: a whole one, then depthwise ones with 1x1 convolutions."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        channels = config.subsampling_conv_channels
        channels = config.d_model if channels < 0 else channels
        self.pads = (2, 1) if config.causal_downsampling else (1, 1)
        self.strides = config.subsampling_factor.bit_length() - 1
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, stride=2), nn.ReLU()]
        for _ in range(self.strides - 1):
            depthwise = nn.Conv2d(channels, channels, 3, stride=2, groups=channels)
            layers += [depthwise, nn.Conv2d(channels, channels, 1), nn.ReLU()]
        self.conv = nn.Sequential(*layers)
        width = config.feat_in
        for _ in range(self.strides):
            width = self.length(width)
        self.out = nn.Linear(channels * width, config.d_model)

    def length(self, count: Any) -> Any:
        """Frames, or bands, after one strided convolution."""
        return (count + sum(self.pads) - 3) // 2 + 1

    def valid(self, lengths: Tensor) -> Tensor:
        """Valid frames (B,) after one strided convolution."""
        return torch.where(lengths > 0, self.length(lengths), 0)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) and valid frames (B,) to (B, T', D) and theirs."""
        x = x.unsqueeze(1)
        for layer in self.conv:
            if isinstance(layer, nn.Conv2d) and layer.stride[0] == 2:  # the others stay within a frame
                x = x.masked_fill(~frame_mask(lengths, x.size(2))[:, None, :, None], 0.0)
                x = F.pad(x, self.pads + self.pads)
                lengths = self.valid(lengths)
            x = layer(x)
        x = x.masked_fill(~frame_mask(lengths, x.size(2))[:, None, :, None], 0.0)
        return self.out(x.transpose(1, 2).flatten(2)), lengths

    def step(self, x: Tensor, state: ConformerState, last: bool) -> Tensor:
        """The next (B, T', D) of a stream, T' of 0 on, for (B, T, F)."""
        x, stride = x.unsqueeze(1), 0
        state.strides = state.strides or [None] * self.strides  # what each convolution still needs of its input
        for layer in self.conv:
            if isinstance(layer, nn.Conv2d) and layer.stride[0] == 2:
                x = F.pad(x, self.pads)
                kept = state.strides[stride]
                x = torch.cat([x.new_zeros(*x.shape[:2], self.pads[0], x.size(3)) if kept is None else kept, x], 2)
                if last:
                    x = F.pad(x, (0, 0, 0, self.pads[1]))
                count = max((x.size(2) - 3) // 2 + 1, 0)
                state.strides[stride], stride = x[:, :, 2 * count :], stride + 1
                x = x[:, :, : 2 * count + 1 if count else 0]
            if x.size(2):
                x = layer(x)
            elif isinstance(layer, nn.Conv2d):  # convolutions refuse what is empty
                bands = (x.size(3) - layer.kernel_size[1]) // layer.stride[1] + 1
                x = x.new_zeros(len(x), layer.out_channels, 0, bands)
        out: Tensor = self.out(x.transpose(1, 2).flatten(2))
        return out


class RelativeAttention(nn.Module):
    """Attention with relative positions and biases of content and position (Dai et al. 2019)."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        dim, bias = config.d_model, config.use_bias
        self.heads, self.dropout = config.n_heads, config.dropout_att
        self.kept = config.context[0]
        self.linear_q, self.linear_k, self.linear_v, self.linear_out = (nn.Linear(dim, dim, bias) for _ in range(4))
        self.linear_pos = nn.Linear(dim, dim, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(self.heads, dim // self.heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(self.heads, dim // self.heads))

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None, state: LayerState | None) -> Tensor:
        """(B, T, D) to the same; ``positions`` (S + T - 1, D) of the distances S - 1 to -(T - 1); mask (…, T, S)."""
        length = x.size(1)
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.linear_q, self.linear_k, self.linear_v)
        )
        if state is not None:
            if state.keys is not None and state.values is not None:
                k, v = torch.cat([state.keys, k], 2), torch.cat([state.values, v], 2)
            start = 0 if self.kept < 0 else max(k.size(2) - self.kept, 0)
            state.keys, state.values = k[:, :, start:], v[:, :, start:]
        p = self.linear_pos(positions).unflatten(-1, (self.heads, -1)).transpose(0, 1)
        bias = (q + self.pos_bias_v.unsqueeze(1)) @ p.transpose(-2, -1)  # (B, heads, T, S + T - 1)
        bias = F.pad(bias, (1, 0)).flatten(2).unflatten(2, (-1, length))[:, :, 1:].flatten(2)
        bias = bias.unflatten(2, (length, -1))[..., : k.size(2)] / math.sqrt(q.size(-1))
        if mask is not None:
            bias = bias.masked_fill(~mask, _MASKED)
        dropout = self.dropout if self.training else 0.0
        q = q + self.pos_bias_u.unsqueeze(1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        projected: Tensor = self.linear_out(out.transpose(1, 2).flatten(2))
        return projected


class ConformerConvolution(nn.Module):
    """Gated depthwise convolution; its norm is called ``batch_norm`` whatever it is."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        dim, kernel, bias = config.d_model, config.conv_kernel_size, config.use_bias
        self.pad = (kernel - 1, 0) if config.conv_context_size == "causal" else ((kernel - 1) // 2,) * 2
        self.pointwise_conv1 = nn.Conv1d(dim, 2 * dim, 1, bias=bias)
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel, groups=dim, bias=bias)
        self.channels_last = config.conv_norm_type == "layer_norm"
        self.batch_norm = nn.LayerNorm(dim) if self.channels_last else nn.BatchNorm1d(dim)
        self.pointwise_conv2 = nn.Conv1d(dim, dim, 1, bias=bias)

    def forward(self, x: Tensor, valid: Tensor | None, state: LayerState | None) -> Tensor:
        """(B, T, D) to the same; frames that are not ``valid`` (B, T) count as zeros."""
        x = F.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1)
        if valid is not None:
            x = x.masked_fill(~valid.unsqueeze(1), 0.0)
        if state is None:
            x = F.pad(x, self.pad)
        else:
            x = F.pad(x, self.pad) if state.inputs is None else torch.cat([state.inputs, x], 2)
            state.inputs = x[:, :, x.size(2) - self.pad[0] :]
        x = self.depthwise_conv(x)
        x = self.batch_norm(x.transpose(1, 2)).transpose(1, 2) if self.channels_last else self.batch_norm(x)
        out: Tensor = self.pointwise_conv2(F.silu(x)).transpose(1, 2)
        return out


class ConformerFeedForward(nn.Module):
    """Two linear layers with SiLU between."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        hidden = config.d_model * config.ff_expansion_factor
        self.dropout = config.dropout
        self.linear1 = nn.Linear(config.d_model, hidden, config.use_bias)
        self.linear2 = nn.Linear(hidden, config.d_model, config.use_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the same."""
        out: Tensor = self.linear2(F.dropout(F.silu(self.linear1(x)), self.dropout, self.training))
        return out


class ConformerLayer(nn.Module):
    """Half a feed-forward block, attention, convolution, the other half, all pre-norm; then a norm."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.norm_feed_forward1 = nn.LayerNorm(config.d_model)
        self.feed_forward1 = ConformerFeedForward(config)
        self.norm_self_att = nn.LayerNorm(config.d_model)
        self.self_attn = RelativeAttention(config)
        self.norm_conv = nn.LayerNorm(config.d_model)
        self.conv = ConformerConvolution(config)
        self.norm_feed_forward2 = nn.LayerNorm(config.d_model)
        self.feed_forward2 = ConformerFeedForward(config)
        self.norm_out = nn.LayerNorm(config.d_model)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor | None, valid: Tensor | None, state: LayerState | None = None
    ) -> Tensor:
        """(B, T, D) to the same."""
        x = x + 0.5 * self._drop(self.feed_forward1(self.norm_feed_forward1(x)))
        attended = self.self_attn(self.norm_self_att(x), positions, mask, state)
        if valid is not None:
            attended = attended.masked_fill(~valid.unsqueeze(-1), 0.0)
        x = x + self._drop(attended)
        x = x + self._drop(self.conv(self.norm_conv(x), valid, state))
        x = x + 0.5 * self._drop(self.feed_forward2(self.norm_feed_forward2(x)))
        out: Tensor = self.norm_out(x)
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class ConformerEncoder(nn.Module):
    """Features to states, at a fraction of their frame rate.

    Args:
        config: its shape; see :func:`conformer_config`.

    Attributes:
        feat_in, dim: width of the features and of the states.
        stride: frames of features per state.
    """

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.config, self.dim = config, config.feat_out if config.feat_out > 0 else config.d_model
        self.feat_in, self.stride = config.feat_in, config.subsampling_factor
        subsampled = config.subsampling_factor > 1
        self.pre_encode = Subsampling(config) if subsampled else nn.Linear(config.feat_in, config.d_model)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.n_layers))
        self.out_proj = nn.Linear(config.d_model, config.feat_out) if config.feat_out > 0 else None

    @typecheck(
        {"x": NeuralType(("B", "T", "D"), ChannelType()), "lengths": NeuralType(("B",), LengthsType())},
        {
            "encoded": NeuralType(("B", "T", "D"), AcousticEncodedRepresentation()),
            "lengths": NeuralType(("B",), LengthsType()),
        },
        positional=True,
    )
    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, T', D) and their valid frames (B,), of features (B, T, F); a row's are as it alone has."""
        if isinstance(self.pre_encode, Subsampling):
            x, lengths = self.pre_encode(x, lengths)
        else:
            x = self.pre_encode(x)
        valid = frame_mask(lengths, x.size(1))
        mask = valid[:, None, None, :]
        if (allowed := self._allowed(0, x.size(1), 0, x.device)) is not None:
            mask = mask & allowed
        return self._run(x, mask, valid, None), lengths

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Valid frames of the output for so many of the input."""
        for _ in range(self.pre_encode.strides if isinstance(self.pre_encode, Subsampling) else 0):
            lengths = self.pre_encode.valid(lengths)  # type: ignore[operator]
        return lengths

    def state(self) -> ConformerState:
        """Of a stream before its first frame.

        Raises:
            InputError: the encoder needs later frames.
        """
        if not self.config.causal:
            raise InputError(
                "this encoder needs the whole recording; a stream needs causal_downsampling, conv_context_size causal, "
                "and attention to the left: att_context_size [70, 0], or chunked_limited"
            )
        return ConformerState([LayerState() for _ in self.layers])

    def step(self, x: Tensor, state: ConformerState, last: bool = False) -> Tensor:
        """The next states (B, T', D) of a stream for its next features (B, T, F): all that no later one changes.

        Joined, they are those of :meth:`forward` for the whole; ``last`` ends the stream.
        """
        x = self.pre_encode.step(x, state, last) if isinstance(self.pre_encode, Subsampling) else self.pre_encode(x)
        if state.waiting is not None:
            x = torch.cat([state.waiting, x], 1)
        count = x.size(1) if last else x.size(1) // self.config.chunk * self.config.chunk
        state.waiting, x = x[:, count:], x[:, :count]
        if count == 0:
            return x.new_zeros(len(x), 0, self.dim)
        keys = state.layers[0].keys if state.layers else None
        past = 0 if keys is None else keys.size(2)
        mask = self._allowed(state.frames, count, past, x.device)
        state.frames += count
        return self._run(x, mask, None, state)

    def _run(self, x: Tensor, mask: Tensor | None, valid: Tensor | None, state: ConformerState | None) -> Tensor:
        config, length = self.config, x.size(1)
        if config.xscaling:
            x = x * math.sqrt(config.d_model)
        x = F.dropout(x, config.dropout_pre_encoder, self.training)
        keys = length if mask is None else mask.size(-1)
        positions = _sinusoids(keys, length, config.d_model, x.device).to(x.dtype)
        positions = F.dropout(positions, config.dropout_emb, self.training)
        for number, layer in enumerate(self.layers):
            x = layer(x, positions, mask, valid, None if state is None else state.layers[number])
        return x if self.out_proj is None else self.out_proj(x)

    def _allowed(self, start: int, count: int, past: int, device: torch.device) -> Tensor | None:
        """What frames ``start`` on may attend to, bool (count, past + count); None for everything."""
        left, right = self.config.context
        if left < 0 and right < 0:
            return None
        queries = torch.arange(start, start + count, device=device).unsqueeze(1)
        keys = torch.arange(start - past, start + count, device=device)
        if self.config.att_context_style == "chunked_limited":
            chunk = right + 1
            queries, keys, left, right = queries // chunk, keys // chunk, left // chunk if left >= 0 else left, 0
        allowed = torch.ones(count, past + count, dtype=torch.bool, device=device)
        if left >= 0:
            allowed &= keys >= queries - left
        if right >= 0:
            allowed &= keys <= queries + right
        return allowed


def _sinusoids(keys: int, length: int, dim: int, device: torch.device) -> Tensor:
    """Sines and cosines of the distances keys - 1 to -(length - 1), interleaved, (keys + length - 1, dim)."""
    distances = torch.arange(keys - 1, -length, -1, device=device, dtype=torch.float32).unsqueeze(1)
    rates = torch.exp(torch.arange(0, dim, 2, device=device, dtype=torch.float32) * -(math.log(10000.0) / dim))
    angles = distances * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
