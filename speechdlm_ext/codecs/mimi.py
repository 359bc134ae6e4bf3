"""Mimi (Défossez et al. 2024), by transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from speechdlm_ext.codecs.base import Codec
from speechdlm_ext.codecs.hf import load_model, reach
from speechdlm_ext.codecs.streaming import Stage, Stateful, Windowed
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.padding import frame_mask


class MimiCodec(Codec):
    """Causal in all its layers: a stream gives what the whole gives, without delay.

    A last frame that is not whole is filled with zeros first, so that a row is what it is alone.

    Args:
        model: a ``MimiModel``.
        num_codebooks: the first ones of its quantizer; None for all.

    Raises:
        InputError: the model is not causal, or has fewer codebooks.
    """

    usage = "FOLDER_OR_NAME"
    encode_context = decode_context = (0, 0)

    def __init__(self, model: Any, num_codebooks: int | None = None) -> None:
        super().__init__()
        config = model.config
        if not config.use_causal_conv or config.audio_channels != 1:
            raise InputError("this Mimi is not causal, or has two channels: take a model like kyutai/mimi")
        if not 1 <= (num_codebooks or 1) <= config.num_quantizers:
            raise InputError(f"{num_codebooks} codebooks: this Mimi has {config.num_quantizers}")
        self.model = model.eval()
        self.sample_rate, self.frame_rate = config.sampling_rate, config.frame_rate
        self.num_codebooks = num_codebooks or config.num_quantizers
        self.codebook_size = config.codebook_size

    @classmethod
    def from_spec(cls, model: str, num_codebooks: int | None = None) -> MimiCodec:
        """See :meth:`Codec.from_spec`."""
        codec = cls(load_model("MimiModel", model), num_codebooks)
        codec.identity = ["mimi", model, codec.num_codebooks]
        return codec

    def encode_rows(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """See :meth:`Codec.encode_rows`."""
        waves = waves * frame_mask(lengths, waves.size(1))
        codes: Tensor = self.model.encode(self._whole_frames(waves), num_quantizers=self.num_codebooks).audio_codes
        return codes

    def decode_rows(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """See :meth:`Codec.decode_rows`."""
        sound: Tensor = self.model.decode(codes).audio_values[:, 0]
        return sound

    def encode_stages(self) -> Sequence[Stage]:
        """See :meth:`Codec.encode_stages`."""

        def encode(wave: Tensor, caches: Any) -> tuple[Tensor, Any]:
            convolutions, attention = caches or (None, None)
            found = self.model.encode(
                self._whole_frames(wave), num_quantizers=self.num_codebooks, padding_cache=convolutions,
                encoder_cache=attention, use_streaming=True,
            )  # fmt: skip
            return found.audio_codes, (found.padding_cache, found.encoder_cache)

        whole = Windowed(lambda wave: wave, 0, size_in=self.hop, size_out=self.hop)
        return [whole, Stateful(encode)]

    def decode_stages(self) -> Sequence[Stage]:
        """See :meth:`Codec.decode_stages`."""
        decoder, quantizer = self.model.decoder, self.model.quantizer

        def transform(x: Tensor, cache: Any) -> tuple[Tensor, Any]:
            found = decoder.decoder_transformer(x.transpose(1, 2), cache=cache, use_cache=True)
            return found.last_hidden_state.transpose(1, 2), found.cache

        steps = decoder.upsample.conv.stride[0]
        return [
            Windowed(lambda codes: decoder.upsample(quantizer.decode(codes)), reach(decoder.upsample), size_out=steps),
            Stateful(transform),
            Windowed(
                lambda x: decoder.decoder_seanet(x)[:, 0], reach(decoder.decoder_seanet), size_out=self.hop // steps
            ),
        ]

    def _whole_frames(self, waves: Tensor) -> Tensor:
        return nn.functional.pad(waves, (0, -waves.size(1) % self.hop)).unsqueeze(1)
