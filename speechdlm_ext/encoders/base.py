"""What an encoder is, and how one is built from the name and options that a codebook carries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol

from speechdlm_ext.errors import InputError

if TYPE_CHECKING:
    import torch


class Encoder(Protocol):
    """Turns sound into one feature vector a frame.

    Attributes:
        name: under which ``build_encoder`` knows it.
        sample_rate: of the sound it takes, in Hz.
        frame_rate: of the features it gives, in Hz.
        dim: their width D.
        device: where it computes; waves for ``encode_batch`` are best put there.
        options: keyword arguments that build the same encoder again.
        identity: what the features depend on, in values that JSON can hold: no paths, but a digest of the weights.
            Codebooks of equal identity fit.
    """

    name: str
    sample_rate: int
    frame_rate: float
    dim: int
    device: torch.device

    @property
    def options(self) -> dict[str, Any]: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Encoder:
        """Compute there from now on, in this precision (None keeps it); returns itself."""
        ...

    def frames(self, samples: int) -> int:
        """The number of frames T that ``samples`` samples give."""
        ...

    def encode(self, wave: torch.Tensor, sample_rate: int) -> torch.Tensor:
        """Features (T, D), float32, of one channel of sound (N,) at ``sample_rate`` Hz."""
        ...

    def encode_batch(self, waves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Features (T_i, D), float32 on the CPU, of each of several channels of sound (N_i,) at the encoder's rate.

        They are those that ``encode`` gives, up to rounding (1e-4).
        """
        ...

    def stream(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Pieces (C, t, D) of what ``encode_blocks`` gives, as early as may be, so that memory stays bounded."""
        ...

    def encode_blocks(self, blocks: Iterable[torch.Tensor]) -> torch.Tensor:
        """Features (C, T, D) of a stream of blocks (C, n) at the encoder's rate, as ``encode`` gives each channel's."""
        ...


# By name: the module and the class, imported when asked for, because fairseq and torchaudio take seconds.
_ENCODERS = {
    "logmel": ("speechdlm_ext.encoders.logmel", "LogMelEncoder"),
    "hubert": ("speechdlm_ext.encoders.hubert", "HubertEncoder"),
    "wavlm": ("speechdlm_ext.encoders.wavlm", "WavLMEncoder"),
}
ENCODER_NAMES = tuple(_ENCODERS)


def build_encoder(name: str, options: Mapping[str, Any] | None = None) -> Encoder:
    """Build an encoder by name: ``logmel``, ``hubert`` or ``wavlm``.

    Raises:
        InputError: there is no encoder of this name, it does not take these options, or its checkpoint does not fit.
    """
    if name not in _ENCODERS:
        raise InputError(f"encoder {name!r}: there is {', '.join(_ENCODERS)}")
    module, cls = _ENCODERS[name]
    build = getattr(import_module(module), cls)
    try:
        signature(build).bind(**(options or {}))
    except TypeError as error:
        raise InputError(f"encoder {name!r} does not take the options {dict(options or {})}: {error}") from None
    encoder: Encoder = build(**(options or {}))
    return encoder
