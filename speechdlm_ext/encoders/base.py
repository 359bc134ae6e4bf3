"""What an encoder is, the registry of encoders, and how one is built from its name and options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from speechdlm_ext.errors import InputError

if TYPE_CHECKING:
    import torch


class Encoder(Protocol):
    """Turns sound into one feature vector per frame.

    Attributes:
        name: under which ``build_encoder`` knows it.
        sample_rate: of the sound it takes, in Hz.
        frame_rate: of the features it gives, in Hz.
        dim: their width D.
        device: where it computes, and where its features are.
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

    def encode_batch(self, waves: Sequence[torch.Tensor], batch_seconds: float | None = None) -> list[torch.Tensor]:
        """Features (T_i, D), float32, of each of several channels of sound (N_i,) at the encoder's sample rate.

        They are those that ``encode`` gives, up to rounding (1e-4). At most ``batch_seconds`` of sound are computed at
        once; None leaves it to the encoder.
        """
        ...

    def stream(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Pieces (C, t, D) of what ``encode_blocks`` gives, as early as possible, so that memory stays bounded."""
        ...

    def encode_blocks(self, blocks: Iterable[torch.Tensor]) -> torch.Tensor:
        """Features (C, T, D) of a stream of blocks (C, n) at the encoder's rate, as ``encode`` gives each channel's."""
        ...


class Registered(NamedTuple):
    """An encoder in the registry.

    Attributes:
        path: ``module:class``, imported when asked for, because fairseq, torchaudio and transformers take seconds. The
            class's arguments are the encoder's options.
        help: what it is, in a few words.
    """

    path: str
    help: str


# To add an encoder, write a file with a class like Encoder, and name it here.
ENCODERS = {
    "logmel": Registered("speechdlm_ext.encoders.logmel:LogMelEncoder", "log-mel bands, no weights"),
    "hubert": Registered("speechdlm_ext.encoders.hubert:HubertEncoder", "HuBERT checkpoints of fairseq"),
    "wavlm": Registered("speechdlm_ext.encoders.wavlm:WavLMEncoder", "WavLM as Microsoft published it"),
    "hf": Registered("speechdlm_ext.encoders.hf:TransformersEncoder", "any audio encoder of transformers"),
}


def encoder_class(name: str) -> type:
    """The class of an encoder.

    Raises:
        InputError: there is no encoder of this name.
    """
    if name not in ENCODERS:
        raise InputError(f"encoder {name!r}: there is {', '.join(ENCODERS)}")
    module, _, cls = ENCODERS[name].path.partition(":")
    found: type = getattr(import_module(module), cls)
    return found


def build_encoder(name: str, options: Mapping[str, Any] | None = None) -> Encoder:
    """Build an encoder by its name in ``ENCODERS`` and its options.

    Raises:
        InputError: there is no encoder of this name, it does not take these options, or its checkpoint does not fit.
    """
    build, options = encoder_class(name), dict(options or {})
    parameters = signature(build).parameters
    unknown = options.keys() - parameters.keys()
    missing = [key for key, one in parameters.items() if one.default is one.empty and key not in options]
    if unknown or missing:
        raise InputError(
            f"the encoder {name} takes the options {', '.join(parameters)}; "
            + (f"{', '.join(sorted(unknown))} is not among them" if unknown else f"{missing[0]} is needed")
        )
    encoder: Encoder = build(**options)
    return encoder
