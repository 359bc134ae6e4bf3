"""WavTokenizer (Ji et al. 2024): a codec with one codebook; EnCodec's encoder, and a decoder of attention and ConvNeXt.

Rows of different lengths share a batch: every layer sees of a row what it would see of it alone, so that a row's codes
and sound do not depend on its neighbours (the published code has no such batches). Names of weights are the published
ones; those of discriminators, losses and EnCodec's unused decoder are dropped by :func:`published_weights`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from speechdlm_ext.modules.padding import frame_mask, full_lengths

GROUPS = 32
EPS = 1e-6
# Codes (30 s at 40 Hz) that are decoded at once, how many of them two pieces have in common, and how many around a
# piece the encoder's convolutions look at.
PIECE, OVERLAP, AROUND = 1200, 80, 4
KEPT = ("backbone.", "head.", "feature_extractor.encodec.encoder.", "feature_extractor.encodec.quantizer.")


@dataclass(frozen=True)
class WavTokenizerConfig:
    """Shapes; all can be read off the weights.

    Attributes:
        ratios: strides of the encoder in the published order (it goes through them from the end); their product is the
            hop, samples per code.
        filters: channels of the first convolution.
        code_dim: width D of the codebook.
        codes: its size K.
        dim, inner_dim, layers: width, inner width and number of the decoder's ConvNeXt blocks.
        bandwidths: rows of the adaptive norms, of which row 0 is used.
        sample_rate: Hz.
    """

    ratios: tuple[int, ...] = (6, 5, 5, 4)
    filters: int = 32
    code_dim: int = 512
    codes: int = 4096
    dim: int = 768
    inner_dim: int = 2304
    layers: int = 12
    bandwidths: int = 4
    sample_rate: int = 24000

    @property
    def hop(self) -> int:
        """Samples per code."""
        return math.prod(self.ratios)

    @classmethod
    def of_weights(cls, weights: Mapping[str, Tensor]) -> WavTokenizerConfig:
        """The shapes of published weights; raises ``KeyError`` with the name of one that is missing."""
        encoder = "feature_extractor.encodec.encoder.model."
        strides: list[int] = []
        while f"{encoder}{3 * len(strides) + 1}.shortcut.conv.conv.bias" in weights:
            strides.append(weights[f"{encoder}{3 * len(strides) + 3}.conv.conv.weight_v"].size(-1) // 2)
        codes, code_dim = weights[f"{QUANTIZER}embed"].shape
        bandwidths, dim = weights["backbone.norm.scale.weight"].shape
        layers = 0
        while f"backbone.convnext.{layers}.gamma" in weights:
            layers += 1
        return cls(
            ratios=tuple(reversed(strides)),
            filters=weights[f"{encoder}0.conv.conv.weight_v"].size(0),
            code_dim=code_dim,
            codes=codes,
            dim=dim,
            inner_dim=weights["backbone.convnext.0.pwconv1.weight"].size(0),
            layers=layers,
            bandwidths=bandwidths,
        )


QUANTIZER = "feature_extractor.encodec.quantizer.vq.layers.0._codebook."


def published_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a published ``state_dict``, the weights that encoding and decoding need."""
    return {name: tensor for name, tensor in state.items() if name.startswith(KEPT)}


class WavTokenizerModel(nn.Module):
    """Sound to codes and back.

    Attributes:
        frame_rate: codes per second.
        sample_rate: of the sound, in Hz.
    """

    def __init__(self, config: WavTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate = config.sample_rate
        self.frame_rate = config.sample_rate / config.hop
        codebook = nn.ModuleDict({"_codebook": Codebook(config.codes, config.code_dim)})
        quantizer = nn.ModuleDict({"vq": nn.ModuleDict({"layers": nn.ModuleList([codebook])})})
        encodec = nn.ModuleDict({"encoder": SEANetEncoder(config), "quantizer": quantizer})
        self.feature_extractor = nn.ModuleDict({"encodec": encodec})
        self.backbone = Backbone(config)
        self.head = ISTFTHead(config.dim, config.hop)

    @property
    def codebook(self) -> Tensor:
        """Centroids ``(K, D)``."""
        embed: Tensor = self.get_buffer(f"{QUANTIZER}embed")
        return embed

    def embed(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """Sound ``(B, N)``, of which each row has ``lengths`` samples, to embeddings ``(B, D, L)``."""
        embedded: Tensor = self.get_submodule("feature_extractor.encodec.encoder")(waves.unsqueeze(1), lengths)
        return embedded

    def encode(self, waves: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Sound to codes.

        Args:
            waves: ``(B, N)`` at :attr:`sample_rate`, anything beyond a row's length.
            lengths: samples of each row, ``(B,)``; ``None`` for N.

        Returns:
            Codes ``(B, L)``; row b has ⌈lengths[b] / hop⌉ of them, what follows means nothing.
        """
        lengths = full_lengths(waves) if lengths is None else lengths
        frames = self.embed(waves, lengths).transpose(1, 2)
        centroids = self.codebook
        distances = centroids.square().sum(1) - 2 * frames @ centroids.t()
        return distances.argmin(-1)

    def decode(self, codes: Tensor, lengths: Tensor | None = None, bandwidth: int = 0) -> Tensor:
        """Codes ``(B, L)``, of which each row has ``lengths``, to sound ``(B, L · hop)``, silent beyond its end.

        The decoder's attention and norms go over the whole row, and were trained on 3 s. A row of more than
        :data:`PIECE` codes is decoded in pieces of so many, which is no longer the sound of the whole: two pieces fade
        into one another over half of the :data:`OVERLAP` codes that they have in common.
        """
        lengths = full_lengths(codes) if lengths is None else lengths
        if codes.size(1) > PIECE:
            sound = self.codebook.new_zeros(len(codes), codes.size(1) * self.config.hop)
            for row, own, size in zip(sound, codes, lengths.tolist(), strict=True):
                self._decode_long(own[:size], row[: size * self.config.hop], bandwidth)
            return sound
        features = F.embedding(codes, self.codebook).transpose(1, 2)
        mask = frame_mask(lengths, codes.size(1))[:, None].to(features.dtype)
        sound = self.head(self.backbone(features, mask, bandwidth), mask)
        return sound * mask.repeat_interleave(self.config.hop, -1)[:, 0]

    def _decode_long(self, codes: Tensor, sound: Tensor, bandwidth: int) -> None:
        """Codes ``(L,)`` to ``sound`` ``(L · hop,)``, in pieces where there are many."""
        hop = self.config.hop
        first = self.decode(codes[None, :PIECE], bandwidth=bandwidth)[0]
        sound[: len(first)] = first
        fade = torch.linspace(0, 1, OVERLAP // 2 * hop, device=sound.device)
        for begin in range(PIECE - OVERLAP, len(codes) - OVERLAP, PIECE - OVERLAP):
            piece = self.decode(codes[None, begin : begin + PIECE], bandwidth=bandwidth)[0, OVERLAP // 4 * hop :]
            there = sound[(begin + OVERLAP // 4) * hop :][: len(piece)]
            there[: len(fade)].lerp_(piece[: len(fade)], fade)
            there[len(fade) :] = piece[len(fade) :]


class Codebook(nn.Module):
    """The vectors of the codebook and, as the files have them, what training kept of them."""

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("inited", torch.ones(1))
        self.register_buffer("cluster_size", torch.zeros(codes))
        self.register_buffer("embed", torch.zeros(codes, dim))
        self.register_buffer("embed_avg", torch.zeros(codes, dim))


class SEANetEncoder(nn.Module):
    """EnCodec's encoder (Défossez et al. 2022), not causal, with reflection at both ends of every row."""

    def __init__(self, config: WavTokenizerConfig) -> None:
        super().__init__()
        self.hop = config.hop
        width = config.filters
        layers: list[nn.Module] = [Convolution(1, width, 7)]
        for ratio in reversed(config.ratios):
            layers += [ResidualUnit(width), Activation(), Convolution(width, 2 * width, 2 * ratio, ratio)]
            width *= 2
        layers += [LSTM(width), Activation(), Convolution(width, config.code_dim, 7)]
        self.model = nn.ModuleList(layers)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Sound ``(B, 1, N)`` to ``(B, D, L)``; long sound in pieces up to the LSTM, which gives the same."""
        frames, parts = -(-x.size(-1) // self.hop), []
        for begin in range(0, frames, PIECE):
            first = max(0, begin - AROUND)
            part = x[..., first * self.hop : (begin + PIECE + AROUND) * self.hop]
            sizes = (lengths - first * self.hop).clamp(1, part.size(-1))
            for layer in self.model[:-3]:
                part, sizes = layer(part, sizes)
            parts.append(part[..., begin - first : begin - first + PIECE])
        x, lengths = torch.cat(parts, -1), (lengths + self.hop - 1) // self.hop
        for layer in self.model[-3:]:
            x, lengths = layer(x, lengths)
        return x


class Convolution(nn.Module):
    """A weight-normed convolution whose output has ⌈T / stride⌉ positions; reflects each row at its own ends."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        conv = nn.Conv1d(channels_in, channels_out, kernel, stride)
        self.conv = nn.ModuleDict({"conv": nn.utils.parametrizations.weight_norm(conv)})
        self.stride, self.padding = stride, kernel - stride

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, T)`` and lengths to those of the output."""
        return self.conv["conv"](self._reflect(x, lengths)), lengths.add(self.stride - 1) // self.stride

    def _reflect(self, x: Tensor, lengths: Tensor) -> Tensor:
        if not self.padding:
            return x
        right = self.padding // 2
        left = self.padding - right
        # A row not longer than the padding is lengthened by zeros, which reflection then reaches into.
        size = torch.maximum(lengths, (right + -lengths % self.stride).clamp_min(left) + 1)
        total = (-(-x.size(-1) // self.stride) - 1) * self.stride + self.padding + self.stride
        index = torch.arange(-left, total - left, device=x.device).abs().expand(x.size(0), -1)
        last = size.unsqueeze(1) - 1
        index = torch.where(index > last, 2 * last - index, index)
        inside = (index >= 0) & (index < lengths.unsqueeze(1))
        index = index.clamp(0, x.size(-1) - 1).unsqueeze(1).expand(-1, x.size(1), -1)
        return x.gather(-1, index) * inside.unsqueeze(1)


class Activation(nn.Module):
    """ELU."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The same of every position."""
        return F.elu(x), lengths


class ResidualUnit(nn.Module):
    """Two convolutions beside a third of kernel 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width // 2
        self.block = nn.ModuleList(
            [Activation(), Convolution(width, inner, 3), Activation(), Convolution(inner, width, 1)]
        )
        self.shortcut = Convolution(width, width, 1)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, T)`` to ``(B, C, T)``."""
        straight, _ = self.shortcut(x, lengths)
        for layer in self.block:
            x, _ = layer(x, lengths)
        return straight + x, lengths


class LSTM(nn.Module):
    """Two layers with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, 2, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, T)`` to ``(B, C, T)``."""
        steps = x.transpose(1, 2)
        packed = pack_padded_sequence(steps, lengths.cpu(), batch_first=True, enforce_sorted=False)
        found, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=steps.size(1))
        return (steps + found).transpose(1, 2), lengths


class Backbone(nn.Module):
    """The decoder's body: residual blocks with attention over the whole sequence, then ConvNeXt blocks."""

    def __init__(self, config: WavTokenizerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.embed = nn.Conv1d(config.code_dim, dim, 7, padding=3)
        self.pos_net = nn.ModuleList(
            [Residual(dim), Residual(dim), Attention(dim), Residual(dim), Residual(dim), GroupNorm(dim)]
        )
        self.norm = AdaptiveNorm(dim, config.bandwidths)
        self.convnext = nn.ModuleList(
            [ConvNeXt(dim, config.inner_dim, config.bandwidths) for _ in range(config.layers)]
        )
        self.final_layer_norm = nn.LayerNorm(dim, EPS)

    def forward(self, features: Tensor, mask: Tensor, bandwidth: int) -> Tensor:
        """Features ``(B, D, L)`` to ``(B, L, dim)``; ``mask`` is 1 within each row, ``(B, 1, L)``."""
        x = self.embed(features * mask) * mask
        for layer in self.pos_net:
            x = layer(x, mask)
        x = self.norm(x.transpose(1, 2), bandwidth)
        for block in self.convnext:
            x = block(x, mask, bandwidth)
        normed: Tensor = self.final_layer_norm(x)
        return normed


class GroupNorm(nn.GroupNorm):
    """Group norm over each row's own positions."""

    def __init__(self, dim: int) -> None:
        super().__init__(GROUPS, dim, EPS)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """``(B, C, L)`` to ``(B, C, L)``, zero beyond each row's end."""
        rows, channels, size = x.shape
        grouped = x.view(rows, GROUPS, -1, size)
        inside = mask.unsqueeze(2)
        count = mask.sum(-1).view(rows, 1, 1, 1) * (channels // GROUPS)
        mean = (grouped * inside).sum((2, 3), keepdim=True) / count
        centred = (grouped - mean) * inside
        scaled = centred * torch.rsqrt(centred.square().sum((2, 3), keepdim=True) / count + self.eps)
        return (scaled.view_as(x) * self.weight.unsqueeze(1) + self.bias.unsqueeze(1)) * mask


class Residual(nn.Module):
    """Norm, swish and convolution, twice."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(dim), nn.Conv1d(dim, dim, 3, padding=1)
        self.norm2, self.conv2 = GroupNorm(dim), nn.Conv1d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, C, L)`` to ``(B, C, L)``."""
        inner = self.conv1(F.silu(self.norm1(x, mask))) * mask
        inner = self.conv2(F.silu(self.norm2(inner, mask))) * mask
        return x + inner


class Attention(nn.Module):
    """One head over all positions of a row."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = GroupNorm(dim)
        self.q, self.k, self.v, self.proj_out = (nn.Conv1d(dim, dim, 1) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, C, L)`` to ``(B, C, L)``."""
        normed = self.norm(x, mask)
        q, k, v = (layer(normed).transpose(1, 2) for layer in (self.q, self.k, self.v))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask > 0)
        return x + self.proj_out(found.transpose(1, 2)) * mask


class AdaptiveNorm(nn.Module):
    """Layer norm whose scale and shift are chosen by the bandwidth."""

    def __init__(self, dim: int, bandwidths: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Embedding(bandwidths, dim), nn.Embedding(bandwidths, dim)

    def forward(self, x: Tensor, bandwidth: int) -> Tensor:
        """``(B, L, C)`` to ``(B, L, C)``."""
        return F.layer_norm(x, x.shape[-1:], self.scale.weight[bandwidth], self.shift.weight[bandwidth], EPS)


class ConvNeXt(nn.Module):
    """Depthwise convolution, norm, and two linear layers, scaled (Liu et al. 2022)."""

    def __init__(self, dim: int, inner: int, bandwidths: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = AdaptiveNorm(dim, bandwidths)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, mask: Tensor, bandwidth: int) -> Tensor:
        """``(B, L, C)`` to ``(B, L, C)``."""
        near = self.dwconv(x.transpose(1, 2) * mask).transpose(1, 2)
        return x + self.gamma * self.pwconv2(F.gelu(self.pwconv1(self.norm(near, bandwidth))))


class ISTFTHead(nn.Module):
    """Magnitude and phase of each frame, and the inverse transform without a margin: L frames give L hops of sound."""

    def __init__(self, dim: int, hop: int) -> None:
        super().__init__()
        self.hop, self.size = hop, 4 * hop
        self.out = nn.Linear(dim, self.size + 2)
        self.istft = nn.Module()
        self.istft.register_buffer("window", torch.hann_window(self.size))

    def spectrum(self, x: Tensor) -> Tensor:
        """``(B, L, C)`` to complex spectra ``(B, n_fft / 2 + 1, L)``."""
        log_magnitude, phase = self.out(x).float().transpose(1, 2).chunk(2, 1)
        return torch.polar(log_magnitude.exp().clamp_max(100.0), phase)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, L, C)`` to sound ``(B, L · hop)``."""
        window: Tensor = self.istft.get_buffer("window")
        frames = torch.fft.irfft(self.spectrum(x), self.size, dim=1) * window.unsqueeze(1) * mask
        weights = window.square().unsqueeze(1) * mask.float()
        trim = (self.size - self.hop) // 2
        sound, weight = (self._overlap(part)[:, trim:-trim] for part in (frames, weights))
        return sound / weight.clamp_min(1e-11)

    def _overlap(self, frames: Tensor) -> Tensor:
        """Frames ``(B, n_fft, L)`` added at their places, ``(B, (L - 1) · hop + n_fft)``."""
        total = (frames.size(-1) - 1) * self.hop + self.size
        return F.fold(frames, (1, total), (1, self.size), stride=(1, self.hop))[:, 0, 0]
