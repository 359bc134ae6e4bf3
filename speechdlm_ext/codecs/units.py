"""Our own units as a codec of one codebook: encoder and codebook to units, a vocoder back to sound."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechdlm_ext.codecs.base import Codec
from speechdlm_ext.codecs.streaming import Stage
from speechdlm_ext.encoders.base import Encoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.units.codebook import Codebook, Quantizer, quantize_batch
from speechdlm_ext.units.codebook_files import load_codebook
from speechdlm_ext.vocoders.base import Vocoder, build_vocoder, check_codebook
from speechdlm_ext.vocoders.codebook_inversion import CodebookVocoder, PieceStream

# Seconds that a stream sees before and after, where a part of it sees everything.
_BEFORE, _AFTER = 1.0, 0.24
_PIECE_SECONDS = 0.1  # of log-mel sound, at least


class UnitsCodec(Codec):
    """Units of a codebook, one a frame, and a vocoder for them.

    Needs no download: a codebook of log-mel features (``data_prep/train_codebook.py``) is its own vocoder. Sound is
    filled with zeros to whole frames. The speaker is the vocoder's.

    Args:
        codebook: with the name of its encoder.
        vocoder: for its units.
        encoder: of its features; None builds it.
        quantizer: of features to units; None is the nearest centroid.

    Raises:
        InputError: codebook, encoder and vocoder do not belong together.
    """

    usage = "CODEBOOK[,VOCODER_CHECKPOINT]"
    num_codebooks = 1
    exact_streaming = False

    def __init__(
        self,
        codebook: Codebook,
        vocoder: Vocoder,
        encoder: Encoder | None = None,
        quantizer: Quantizer | None = None,
    ) -> None:
        super().__init__()
        check_codebook(vocoder, codebook)
        self.encoder = codebook.build_encoder() if encoder is None else encoder
        codebook.check_encoder(self.encoder)
        if self.encoder.sample_rate != vocoder.sample_rate:
            raise InputError(
                f"the encoder takes {self.encoder.sample_rate} Hz, the vocoder makes {vocoder.sample_rate} Hz: take a "
                "vocoder of the encoder's sample rate"
            )
        self.codebook, self.vocoder = codebook, vocoder
        self.quantizer: Quantizer = codebook if quantizer is None else quantizer
        self.sample_rate, self.frame_rate = vocoder.sample_rate, self.encoder.frame_rate
        self.codebook_size = codebook.num_units
        self.identity = ["units", codebook.fingerprint, vocoder.settings]
        # Samples beyond the last whole frame that the encoder needs for it.
        self._beyond = next(n for n in range(2 * self.hop) if self.encoder.frames(self.hop + n) >= 1)
        near = (round(_BEFORE * self.frame_rate), round(_AFTER * self.frame_rate))
        self.encode_context, self.decode_context = near, getattr(vocoder, "context", near)

    @classmethod
    def from_spec(cls, model: str, num_codebooks: int | None = None) -> UnitsCodec:
        """See :meth:`Codec.from_spec`."""
        path, _, checkpoint = model.partition(",")
        codebook = load_codebook(path)
        if checkpoint:
            return cls(codebook, build_vocoder("hifigan", codebook, "cpu", vocoder_checkpoint=checkpoint))
        return cls(codebook, build_vocoder("codebook", codebook))

    def decode_stages(self) -> Sequence[Stage]:
        """See :meth:`Codec.decode_stages`."""
        return [_Pieces(self.vocoder)] if isinstance(self.vocoder, CodebookVocoder) else super().decode_stages()

    def to(self, device: torch.device | str) -> UnitsCodec:  # type: ignore[override]
        """Compute there, as far as the parts can."""
        self.encoder.to(device)
        generator = getattr(self.vocoder, "generator", None)
        if generator is not None:
            generator.to(device)
        return self

    def encode_rows(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """See :meth:`Codec.encode_rows`."""
        rows = []
        for wave, size in zip(waves.to(self.encoder.device), lengths.tolist(), strict=True):
            rows.append(nn.functional.pad(wave[:size], (0, -size % self.hop + self._beyond)))
        units = quantize_batch(self.quantizer, self.encoder.encode_batch(rows))
        return nn.utils.rnn.pad_sequence(units, batch_first=True).unsqueeze(1).to(waves.device)

    def decode_rows(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """See :meth:`Codec.decode_rows`."""
        size = codes.size(-1) * self.hop
        sound = [
            nn.functional.pad(made, (0, size - made.numel()))
            for row, length in zip(codes, lengths.tolist(), strict=True)
            for made in self.vocoder.decode(row[None, 0, :length, None])[0]
        ]
        return torch.stack(sound).to(codes.device)


class _Pieces:
    """A stage that keeps a stream of a log-mel vocoder for each row; pieces of less than 0.1 s wait for more."""

    def __init__(self, vocoder: CodebookVocoder) -> None:
        self._vocoder = vocoder
        self._least = round(_PIECE_SECONDS * vocoder.frame_rate)
        self._streams: list[PieceStream] = []
        self._waiting: Tensor | None = None

    def push(self, x: Tensor | None, last: bool) -> Tensor | None:
        """See :class:`.Stage`."""
        if x is not None:
            self._waiting = x if self._waiting is None else torch.cat((self._waiting, x), -1)
            self._streams = self._streams or [self._vocoder.streaming() for _ in x]
        sounds = None
        if self._waiting is not None and (last or self._waiting.size(-1) >= self._least):
            rows = self._waiting[:, 0].cpu()
            sounds = torch.stack([stream.push(row) for stream, row in zip(self._streams, rows, strict=True)])
            self._waiting = None
        if last and self._streams:
            rest = torch.stack([stream.finish() for stream in self._streams])
            sounds = rest if sounds is None else torch.cat((sounds, rest), 1)
        return sounds
