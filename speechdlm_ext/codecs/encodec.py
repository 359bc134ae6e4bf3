"""EnCodec (Défossez et al. 2022), by transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechdlm_ext.codecs.base import Codec
from speechdlm_ext.codecs.hf import load_model, reach
from speechdlm_ext.codecs.streaming import Stage, Stateful, Windowed
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.padding import frame_mask


class EncodecCodec(Codec):
    """The models of one channel that take all of a sound at once: ``facebook/encodec_24khz`` and its like.

    A last frame that is not whole is filled with zeros first, so that a row is what it is alone; transformers' own
    encoder reflects there. Models whose convolutions are not causal compute rows of different lengths one by one.

    Args:
        model: an ``EncodecModel``.
        num_codebooks: the first ones of its quantizer; None for all.

    Raises:
        InputError: the model has two channels, normalizes, or works in chunks, or has fewer codebooks.
    """

    usage = "FOLDER_OR_NAME"

    def __init__(self, model: Any, num_codebooks: int | None = None) -> None:
        super().__init__()
        config = model.config
        if config.normalize or config.chunk_length_s is not None or config.audio_channels != 1:
            raise InputError(
                f"{config._name_or_path or 'this EnCodec'} normalizes, works in chunks, or has two channels: take a "
                "model like facebook/encodec_24khz"
            )
        if not 1 <= (num_codebooks or 1) <= config.num_quantizers:
            raise InputError(f"{num_codebooks} codebooks: this EnCodec has {config.num_quantizers}")
        self.model = model.eval()
        self.sample_rate = config.sampling_rate
        self.frame_rate = config.sampling_rate / math.prod(config.upsampling_ratios)
        self.num_codebooks = num_codebooks or config.num_quantizers
        self.codebook_size = config.codebook_size
        self.batches_rows = self.exact_streaming = config.use_causal_conv and config.norm_type == "weight_norm"
        second = round(self.frame_rate)
        self.encode_context = self.decode_context = (second, 0 if self.exact_streaming else math.ceil(second / 4))

    @classmethod
    def from_spec(cls, model: str, num_codebooks: int | None = None) -> EncodecCodec:
        """See :meth:`Codec.from_spec`."""
        codec = cls(load_model("EncodecModel", model), num_codebooks)
        codec.identity = ["encodec", model, codec.num_codebooks]
        return codec

    def encode_rows(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """See :meth:`Codec.encode_rows`."""
        return self._quantize(self.model.encoder(self._whole_frames(waves, lengths)))

    def decode_rows(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """See :meth:`Codec.decode_rows`."""
        sound: Tensor = self.model.decoder(self._dequantize(codes))[:, 0]
        return sound

    def encode_stages(self) -> Sequence[Stage]:
        """See :meth:`Codec.encode_stages`."""
        if not self.exact_streaming:
            return super().encode_stages()
        before, lstm, after = _around_lstm(self.model.encoder)
        frames = math.ceil(reach(before) / self.hop)
        return [
            Windowed(lambda wave: before(self._whole_frames(wave)), frames, first=2, size_in=self.hop),
            Stateful(lstm),
            Windowed(lambda x: self._quantize(after(x)), reach(after), first=reach(after) + 1),
        ]

    def decode_stages(self) -> Sequence[Stage]:
        """See :meth:`Codec.decode_stages`."""
        if not self.exact_streaming:
            return super().decode_stages()
        before, lstm, after = _around_lstm(self.model.decoder)
        return [
            Windowed(lambda codes: before(self._dequantize(codes)), reach(before), first=reach(before) + 1),
            Stateful(lstm),
            Windowed(lambda x: after(x)[:, 0], reach(after), size_out=self.hop),
        ]

    def _whole_frames(self, waves: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is not None:
            waves = waves * frame_mask(lengths, waves.size(1))
        return nn.functional.pad(waves, (0, -waves.size(1) % self.hop)).unsqueeze(1)

    def _quantize(self, embedded: Tensor) -> Tensor:
        residual, codes = embedded, []
        for layer in self.model.quantizer.layers[: self.num_codebooks]:
            codes.append(layer.encode(residual))
            residual = residual - layer.decode(codes[-1])
        return torch.stack(codes, 1)

    def _dequantize(self, codes: Tensor) -> Tensor:
        embedded: Tensor = self.model.quantizer.decode(codes.transpose(0, 1))
        return embedded


def _around_lstm(network: Any) -> tuple[nn.Sequential, Any, nn.Sequential]:
    """The layers before the LSTM, the LSTM with its state as argument and result, the layers after it."""
    layers = list(network.layers)
    place = next(i for i, layer in enumerate(layers) if hasattr(layer, "lstm"))

    def lstm(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        steps = x.permute(2, 0, 1)
        found, state = layers[place].lstm(steps, state)
        return (found + steps).permute(1, 2, 0), state

    return nn.Sequential(*layers[:place]), lstm, nn.Sequential(*layers[place + 1 :])
