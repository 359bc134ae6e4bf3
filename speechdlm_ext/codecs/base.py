"""What an audio codec is, and streams through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from speechdlm_ext.codecs.streaming import Stage, Windowed, push
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.padding import frame_mask, full_lengths

Number = TypeVar("Number", int, Tensor)
Rows = Callable[[Tensor, Tensor], Tensor]


class Codec(nn.Module, ABC):
    """Sound to codes ``(B, Q, L)`` and back; to add one, write it in a file of its own and name it in ``registry.py``.

    ::

        codec = build_codec("mimi:kyutai/mimi")
        codes = codec.encode(wave)  # (B, N) at codec.sample_rate → (B, Q, L)
        wave = codec.decode(codes)  # (B, L · hop)

    A row of a batch gives what it gives alone, unless a codec says otherwise.

    Attributes:
        usage: what follows the codec's name and a colon in :func:`.build_codec`.
        sample_rate: of the sound, in Hz.
        frame_rate: frames of codes per second.
        num_codebooks: codes of a frame, Q.
        codebook_size: codes are 0 … ``codebook_size - 1``.
        identity: what the codes depend on, in values that JSON can hold.
        encode_context: frames before and after it that the codes of a frame depend on.
        decode_context: frames before and after it that the sound of a frame depends on.
        exact_streaming: whether a stream gives what the whole gives; else the contexts above are cut, and the result is
            near it.
        batches_rows: whether rows of different lengths may be computed together; else they are computed one by one.
    """

    usage: ClassVar[str]
    sample_rate: int
    frame_rate: float
    num_codebooks: int
    codebook_size: int
    identity: object = None
    encode_context: tuple[int, int]
    decode_context: tuple[int, int]
    exact_streaming: bool = True
    batches_rows: bool = True

    @classmethod
    @abstractmethod
    def from_spec(cls, model: str, num_codebooks: int | None = None) -> Codec:
        """The codec that ``KIND:MODEL`` names; ``num_codebooks`` are the first ones of a residual quantizer.

        Raises:
            InputError: what it needs is not installed, or its files are missing or invalid.
        """

    @abstractmethod
    def encode_rows(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """Sound ``(B, N)`` of so many samples per row to codes ``(B, Q, L)``; anything beyond a row's end."""

    @abstractmethod
    def decode_rows(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """Codes ``(B, Q, L)`` of so many frames per row to sound ``(B, L · hop)``; anything beyond a row's end."""

    @property
    def device(self) -> torch.device:
        """Where its sound and codes are expected."""
        return next((weight.device for weight in self.parameters()), torch.device("cpu"))

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return round(self.sample_rate / self.frame_rate)

    def frames(self, samples: Number) -> Number:
        """Frames of so many samples: a last one that is not whole counts."""
        return (samples + self.hop - 1) // self.hop

    @torch.no_grad()
    def encode(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode a batch of sounds.

        Args:
            wave: ``(B, N)`` or ``(B, 1, N)`` at :attr:`sample_rate`, full scale at ±1.
            lengths: samples of each row, ``(B,)``; None for N.

        Returns:
            Codes ``(B, Q, L)``, int64; beyond a row's ``frames(length)``, 0.

        Raises:
            InputError: another shape, an empty row, or a sample that is not a finite number.
        """
        rows = wave[:, 0] if wave.dim() == 3 and wave.size(1) == 1 else wave
        if rows.dim() != 2 or not rows.numel() or not rows.is_floating_point():
            raise InputError(f"sound of shape {tuple(wave.shape)} and {wave.dtype}: (B, N) or (B, 1, N) is expected")
        if rows.device.type == "cpu" and not bool(torch.isfinite(rows).all()):
            raise InputError("sound with a sample that is not a finite number")
        lengths = _checked(lengths, rows, "samples")
        codes = self._by_row(self.encode_rows, rows.to(self._dtype), lengths)
        return codes * frame_mask(self.frames(lengths), codes.size(-1)).unsqueeze(1)

    @torch.no_grad()
    def decode(self, codes: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decode a batch of codes.

        Args:
            codes: ``(B, Q, L)``.
            lengths: frames of each row, ``(B,)``; None for L.

        Returns:
            Sound ``(B, L · hop)`` at :attr:`sample_rate`, silent beyond a row's end.

        Raises:
            InputError: another shape, an empty row, or a code out of range.
        """
        self._check_codes(codes)
        if lengths is None:
            return self.decode_rows(codes, full_lengths(codes))
        lengths = _checked(lengths, codes, "frames")
        sound = self._by_row(self.decode_rows, codes, lengths)
        return sound * frame_mask(lengths * self.hop, sound.size(-1))

    def streaming(self) -> CodecStream:
        """A stream of sound to codes, and one of codes to sound; see :class:`CodecStream`."""
        return CodecStream(self)

    def encode_stages(self) -> Sequence[Stage]:
        """What a stream of sound ``(B, N)`` goes through, to codes ``(B, Q, L)``."""
        return [
            Windowed(lambda wave: self.encode_rows(wave, full_lengths(wave)), *self.encode_context, size_in=self.hop)
        ]

    def decode_stages(self) -> Sequence[Stage]:
        """What a stream of codes ``(B, Q, L)`` goes through, to sound ``(B, N)``."""
        return [
            Windowed(
                lambda codes: self.decode_rows(codes, full_lengths(codes)), *self.decode_context, size_out=self.hop
            )
        ]

    @property
    def _dtype(self) -> torch.dtype:
        return next((weight.dtype for weight in self.parameters()), torch.float32)

    def _by_row(self, function: Rows, rows: Tensor, lengths: Tensor) -> Tensor:
        if self.batches_rows or len(rows) == 1 or bool((lengths == rows.size(-1)).all()):
            return function(rows, lengths)
        alone = [
            function(row[None, ..., :size], lengths.new_tensor([size]))
            for row, size in zip(rows, lengths.tolist(), strict=True)
        ]
        longest = max(one.size(-1) for one in alone)
        return torch.cat([nn.functional.pad(one, (0, longest - one.size(-1))) for one in alone])

    def _check_codes(self, codes: Tensor) -> None:
        if codes.dim() != 3 or codes.size(1) != self.num_codebooks or not codes.numel() or codes.is_floating_point():
            raise InputError(
                f"codes of shape {tuple(codes.shape)} and {codes.dtype}: integers (B, {self.num_codebooks}, L) are "
                "expected"
            )
        lowest, highest = (int(end) for end in codes.aminmax())
        if lowest < 0 or highest >= self.codebook_size:
            raise InputError(
                f"code {lowest if lowest < 0 else highest} is out of range: this codec has 0 to "
                f"{self.codebook_size - 1}"
            )


class CodecStream:
    """Codes of sound, and sound of codes, as they come: the memory and the time of a call do not grow.

    ::

        stream = codec.streaming()
        for codes in ...:  # (B, Q, l), l ≥ 1
            wave = stream.decode(codes)  # (B, n), final; n may be 0
        wave = stream.decode(None, last=True)  # what was held back

    Sound comes ``codec.decode_context[1]`` frames after its codes, codes ``codec.encode_context[1]`` frames after their
    sound. Rows are of one length.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._encode, self._decode = codec.encode_stages(), codec.decode_stages()

    @torch.no_grad()
    def encode(self, wave: Tensor | None, last: bool = False) -> Tensor:
        """Sound ``(B, n)`` or ``(B, 1, n)`` that follows, to the codes that are final ``(B, Q, l)``."""
        rows = wave[:, 0] if wave is not None and wave.dim() == 3 else wave
        codes = push(self._encode, None if rows is None else rows.to(self.codec._dtype), last)
        if codes is None:
            codes = torch.zeros(1 if rows is None else len(rows), self.codec.num_codebooks, 0, dtype=torch.long)
        return codes

    @torch.no_grad()
    def decode(self, codes: Tensor | None, last: bool = False) -> Tensor:
        """Codes ``(B, Q, l)`` that follow, to the sound that is final ``(B, n)``; unchecked on a GPU."""
        if codes is not None and codes.device.type == "cpu":
            self.codec._check_codes(codes)
        wave = push(self._decode, codes, last)
        return torch.zeros(1 if codes is None else len(codes), 0) if wave is None else wave


def _checked(lengths: Tensor | None, rows: Tensor, what: str) -> Tensor:
    if lengths is None:
        return full_lengths(rows)
    if lengths.shape != rows.shape[:1]:
        raise InputError(f"{len(rows)} rows, lengths of shape {tuple(lengths.shape)}: one length a row is expected")
    if lengths.device.type == "cpu" and bool(((lengths < 1) | (lengths > rows.size(-1))).any()):
        row = int(((lengths < 1) | (lengths > rows.size(-1))).nonzero()[0])
        raise InputError(f"row {row} has {int(lengths[row])} {what}: 1 to {rows.size(-1)} are expected")
    return lengths.to(rows.device)
