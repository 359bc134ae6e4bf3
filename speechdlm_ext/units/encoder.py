"""What an encoder is, and how one is built from the name and options that a codebook carries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
        options: keyword arguments that build the same encoder again.
    """

    name: str
    sample_rate: int
    frame_rate: float
    dim: int

    @property
    def options(self) -> dict[str, Any]: ...

    def frames(self, samples: int) -> int:
        """The number of frames T that ``samples`` samples give."""
        ...

    def encode(self, wave: torch.Tensor, sample_rate: int) -> torch.Tensor:
        """Features (T, D), float32, of one channel of sound (N,) at ``sample_rate`` Hz."""
        ...

    def encode_blocks(self, blocks: Iterable[torch.Tensor]) -> torch.Tensor:
        """Features (C, T, D) of a stream of blocks (C, n) at the encoder's rate, as ``encode`` gives each channel's."""
        ...


def build_encoder(name: str, options: Mapping[str, Any] | None = None) -> Encoder:
    """Build an encoder by name (``logmel``).

    Raises:
        InputError: there is no encoder of this name, or it does not take these options.
    """
    from speechdlm_ext.units.logmel import LogMelEncoder

    encoders = {LogMelEncoder.name: LogMelEncoder}
    if name not in encoders:
        raise InputError(f"encoder {name!r}: there is {', '.join(encoders)}")
    try:
        return encoders[name](**(options or {}))
    except TypeError as error:
        raise InputError(f"encoder {name!r} does not take the options {dict(options or {})}: {error}") from None
