"""NeMo's audio codec: a HiFi-GAN encoder, finite scalar quantization in groups, a HiFi-GAN decoder.

Kong et al. 2020 for the layers, Mentzer et al. 2024 for the quantization. Names of weights are those of NeMo's files.
As published, every convolution reflects the batch at its ends and sets what is beyond a row's end to zero: the last
frames of a row that is shorter than its neighbours differ a little from those of the row alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.padding import frame_mask

SLOPE = 0.01


@dataclass(frozen=True)
class HiFiGANCodecConfig:
    """Shapes, as NeMo's ``model_config.yaml`` has them.

    Attributes:
        sample_rate: Hz.
        rates: strides of the encoder; their product is the hop, samples per frame.
        up_rates: strides of the decoder.
        dim: channels between encoder and decoder, which the groups share.
        encoder_channels, decoder_channels: of the first convolutions.
        encoder_kernels, encoder_dilations, decoder_kernels, decoder_dilations: of the residual blocks.
        groups: codebooks Q.
        levels: of each dimension of a group; their product is the size of a codebook.
    """

    sample_rate: int
    rates: tuple[int, ...]
    up_rates: tuple[int, ...]
    dim: int
    encoder_channels: int
    decoder_channels: int
    groups: int
    levels: tuple[int, ...]
    encoder_kernels: tuple[int, ...] = (3, 7, 11)
    encoder_dilations: tuple[int, ...] = (1, 3, 5)
    decoder_kernels: tuple[int, ...] = (3, 7, 11)
    decoder_dilations: tuple[int, ...] = (1, 3, 5)

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.rates)

    @property
    def codebook_size(self) -> int:
        """Codes of a group."""
        return math.prod(self.levels)

    @classmethod
    def of_nemo(cls, config: Mapping[str, Any]) -> HiFiGANCodecConfig:
        """The shapes in the configuration of an ``AudioCodecModel``.

        Raises:
            InputError: a part is of another kind than these layers, or a value is missing.
        """
        parts = {
            "audio_encoder": "HiFiGANEncoder",
            "audio_decoder": "HiFiGANDecoder",
            "vector_quantizer": "GroupFiniteScalarQuantizer",
        }
        for part, kind in parts.items():
            said = config.get(part) or {}
            found = str(said.get("_target_", "missing")).rpartition(".")[2]
            if found != kind:
                raise InputError(f"codec: {part} is {found}, {kind} is expected")
            for key, expected in (("activation", "lrelu"), ("pad_mode", "reflect"), ("output_activation", "tanh")):
                if said.get(key, expected) != expected:
                    raise InputError(f"codec: {part}.{key} is {said[key]}, {expected} is expected")
        encoder, decoder, quantizer = (config[part] for part in parts)
        try:
            shapes = cls(
                sample_rate=int(config["sample_rate"]),
                rates=tuple(encoder["down_sample_rates"]),
                up_rates=tuple(decoder["up_sample_rates"]),
                dim=int(encoder["encoded_dim"]),
                encoder_channels=int(encoder["base_channels"]),
                decoder_channels=int(decoder["base_channels"]),
                groups=int(quantizer["num_groups"]),
                levels=tuple(quantizer["num_levels_per_group"]),
                encoder_kernels=tuple(encoder.get("resblock_kernel_sizes", cls.encoder_kernels)),
                encoder_dilations=tuple(encoder.get("resblock_dilation_sizes", cls.encoder_dilations)),
                decoder_kernels=tuple(decoder.get("resblock_kernel_sizes", cls.decoder_kernels)),
                decoder_dilations=tuple(decoder.get("resblock_dilation_sizes", cls.decoder_dilations)),
            )
        except KeyError as error:
            raise InputError(f"codec: the configuration has no {error.args[0]}") from None
        if math.prod(shapes.up_rates) != shapes.hop or int(config.get("samples_per_frame", shapes.hop)) != shapes.hop:
            raise InputError(
                f"codec: the encoder has {shapes.hop} samples per frame, the decoder {math.prod(shapes.up_rates)}"
                f", samples_per_frame is {config.get('samples_per_frame')}: three equal numbers are expected"
            )
        if shapes.dim != shapes.groups * len(shapes.levels) or shapes.dim != int(decoder["input_dim"]):
            raise InputError(
                f"codec: {shapes.dim} channels from the encoder, {shapes.groups} groups of {len(shapes.levels)}, "
                f"{decoder['input_dim']} channels to the decoder: they do not fit"
            )
        return shapes


class HiFiGANCodecModel(nn.Module):
    """Sound to codes and back. Codes are ``(B, Q, L)``; lengths are samples or frames of each row, ``(B,)``."""

    def __init__(self, config: HiFiGANCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.audio_encoder = Encoder(config)
        self.vector_quantizer = GroupQuantizer(config.groups, config.levels)
        self.audio_decoder = Decoder(config)

    def encode_rows(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """Sound ``(B, N)`` to codes ``(B, Q, ⌈N / hop⌉)``, 0 beyond a row's ``⌈length / hop⌉``."""
        hop = self.config.hop
        waves = F.pad(waves * frame_mask(lengths, waves.size(1)), (0, -waves.size(1) % hop))
        frames = lengths.add(hop - 1) // hop
        encoded = self.audio_encoder(waves.unsqueeze(1), frames * hop)
        return self.vector_quantizer.encode(encoded) * frame_mask(frames, encoded.size(-1))[:, None]

    def decode_rows(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """Codes to sound ``(B, L · hop)``, silent beyond a row's end."""
        values = self.vector_quantizer.decode(codes) * frame_mask(lengths, codes.size(-1))[:, None]
        sound: Tensor = self.audio_decoder(values, lengths)
        return sound

    @property
    def encode_reach(self) -> int:
        """Frames before and after it that a frame's codes depend on."""
        config, reach, scale = self.config, 3.0, 1
        for rate in config.rates:
            reach += _residual_reach(config.encoder_kernels, config.encoder_dilations) * scale
            reach += 2 * rate * scale
            scale *= rate
        return math.ceil((reach + 3 * scale) / scale) + 1

    @property
    def decode_reach(self) -> int:
        """Frames before and after it that a frame's sound depends on."""
        config, reach, scale = self.config, 3.0, 1
        for rate in config.up_rates:
            reach += 1 / scale
            scale *= rate
            reach += _residual_reach(config.decoder_kernels, config.decoder_dilations) / scale
        return math.ceil(reach + 1 / scale) + 1


def _mask(x: Tensor, lengths: Tensor) -> Tensor:
    return frame_mask(lengths, x.size(-1))[:, None]


def _residual_reach(kernels: Sequence[int], dilations: Sequence[int]) -> int:
    return (max(kernels) - 1) // 2 * sum(dilation + 1 for dilation in dilations)


class Convolution(nn.Module):
    """A weight-normed convolution that reflects at both ends; its output is zero beyond a row's end."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.padding = (kernel - stride + 1) // 2 if stride > 1 else dilation * (kernel - 1) // 2
        self.conv = weight_norm(nn.Conv1d(channels_in, channels_out, kernel, stride, dilation=dilation))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, C, T)`` to ``(B, C', T')``; ``mask`` ``(B, 1, T')`` is of the output."""
        pad = self.padding
        if pad >= x.size(-1):
            raise InputError(
                f"codec: a sound too short to be reflected at its ends ({pad + 1} values are needed there)"
            )
        # Copies: on a CPU PyTorch's own reflection takes a third of the convolutions' time.
        x = torch.cat([x[..., 1 : pad + 1].flip(-1), x, x[..., x.size(-1) - pad - 1 : -1].flip(-1)], -1)
        y: Tensor = self.conv(x)
        return y * mask


class Upsampling(nn.Module):
    """A weight-normed transposed convolution, of whose output a row's end is where it should be."""

    def __init__(self, channels_in: int, channels_out: int, rate: int) -> None:
        super().__init__()
        conv = nn.ConvTranspose1d(channels_in, channels_out, 2 * rate, rate, (rate + 1) // 2, rate % 2)
        self.conv = weight_norm(conv)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, C, T)`` to ``(B, C', rate · T)``; ``mask`` ``(B, 1, rate · T)`` is of the output."""
        y: Tensor = self.conv(x)
        return y * mask


class ResidualBlock(nn.Module):
    """Two convolutions, the first dilated, beside the input."""

    def __init__(self, channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.input_conv = Convolution(channels, channels, kernel, dilation=dilation)
        self.skip_conv = Convolution(channels, channels, kernel)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, C, T)`` to ``(B, C, T)``."""
        inner = self.input_conv(F.leaky_relu(x, SLOPE), mask)
        added: Tensor = x + self.skip_conv(F.leaky_relu(inner, SLOPE), mask)
        return added


class ResidualChain(nn.Module):
    """One block for each dilation, one after the other."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList([ResidualBlock(channels, kernel, dilation) for dilation in dilations])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, C, T)`` to ``(B, C, T)``."""
        for block in self.res_blocks:
            x = block(x, mask)
        return x


class ResidualLayer(nn.Module):
    """The mean of one chain for each kernel size."""

    def __init__(self, channels: int, kernels: Sequence[int], dilations: Sequence[int]) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList([ResidualChain(channels, kernel, dilations) for kernel in kernels])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``(B, C, T)`` to ``(B, C, T)``."""
        return torch.stack([chain(x, mask) for chain in self.res_blocks]).mean(0)


class Encoder(nn.Module):
    """Sound to frames."""

    def __init__(self, config: HiFiGANCodecConfig) -> None:
        super().__init__()
        width = config.encoder_channels
        self.rates = config.rates
        self.pre_conv = Convolution(1, width, 7)
        self.res_layers, self.down_sample_conv_layers = nn.ModuleList(), nn.ModuleList()
        for rate in config.rates:
            self.res_layers.append(ResidualLayer(width, config.encoder_kernels, config.encoder_dilations))
            self.down_sample_conv_layers.append(Convolution(width, 2 * width, 2 * rate, rate))
            width *= 2
        self.post_conv = Convolution(width, config.dim, 7)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Sound ``(B, 1, L · hop)`` of whole frames to ``(B, D, L)``."""
        mask = _mask(x, lengths)
        x = self.pre_conv(x, mask)
        for rate, residual, down in zip(self.rates, self.res_layers, self.down_sample_conv_layers, strict=True):
            x = F.leaky_relu(residual(x, mask), SLOPE)
            mask = mask[..., ::rate]  # lengths are of whole frames
            x = down(x, mask)
        encoded: Tensor = self.post_conv(F.leaky_relu(x, SLOPE), mask)
        return encoded


class Decoder(nn.Module):
    """Frames to sound."""

    def __init__(self, config: HiFiGANCodecConfig) -> None:
        super().__init__()
        width = config.decoder_channels
        self.rates = config.up_rates
        self.pre_conv = Convolution(config.dim, width, 7)
        self.up_sample_conv_layers, self.res_layers = nn.ModuleList(), nn.ModuleList()
        for rate in config.up_rates:
            self.up_sample_conv_layers.append(Upsampling(width, width // 2, rate))
            width //= 2
            self.res_layers.append(ResidualLayer(width, config.decoder_kernels, config.decoder_dilations))
        self.post_conv = Convolution(width, 1, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """``(B, D, L)`` to sound ``(B, L · hop)``, within ±1."""
        mask = _mask(x, lengths)
        x = self.pre_conv(x, mask)
        for rate, up, residual in zip(self.rates, self.up_sample_conv_layers, self.res_layers, strict=True):
            mask = mask.repeat_interleave(rate, -1)
            x = residual(up(F.leaky_relu(x, SLOPE), mask), mask)
        return torch.tanh(self.post_conv(F.leaky_relu(x, SLOPE), mask))[:, 0]


class GroupQuantizer(nn.Module):
    """Groups of channels, each rounded to a grid (finite scalar quantization)."""

    def __init__(self, groups: int, levels: Sequence[int]) -> None:
        super().__init__()
        self.fsqs = nn.ModuleList([Grid(levels) for _ in range(groups)])

    def encode(self, x: Tensor) -> Tensor:
        """``(B, D, L)`` to codes ``(B, Q, L)``."""
        parts = x.chunk(len(self.fsqs), 1)
        return torch.stack([grid.encode(part) for grid, part in zip(self.fsqs, parts, strict=True)], 1)  # type: ignore[operator]

    def decode(self, codes: Tensor) -> Tensor:
        """Codes ``(B, Q, L)`` to values ``(B, D, L)`` within ±1."""
        return torch.cat([grid.decode(codes[:, q]) for q, grid in enumerate(self.fsqs)], 1)  # type: ignore[operator]


class Grid(nn.Module):
    """A codebook that is the points of a grid, ``levels`` on each axis."""

    num_levels: Tensor
    dim_base_index: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        base = [math.prod(levels[:axis]) for axis in range(len(levels))]
        self.register_buffer("num_levels", torch.tensor(levels, dtype=torch.int32).view(1, -1, 1))
        self.register_buffer("dim_base_index", torch.tensor(base, dtype=torch.int32).view(1, -1, 1))

    def encode(self, x: Tensor) -> Tensor:
        """``(B, d, L)`` to codes ``(B, L)``."""
        levels = self.num_levels
        scale = (levels - 1) / 2 * (1 - 1e-3)
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        rounded = torch.round(scale * torch.tanh(x + torch.tan(offset / scale)) - offset)
        return ((rounded + levels // 2) * self.dim_base_index).sum(1).long()

    def decode(self, codes: Tensor) -> Tensor:
        """Codes ``(B, L)`` to ``(B, d, L)``; a code beyond the codebook counts modulo its size, as published."""
        levels = self.num_levels
        place = codes.unsqueeze(1) // self.dim_base_index % levels
        return (place - levels // 2) / (levels // 2)
