"""What a vocoder is, the registry of vocoders with their options, and how one is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from speechdlm_ext.errors import InputError

if TYPE_CHECKING:
    import torch

    from speechdlm_ext.units.codebook import Codebook


class Vocoder(Protocol):
    """Turns units into sound, each channel by itself.

    Attributes:
        frame_rate: of the units, in Hz.
        sample_rate: of the sound, in Hz.
        num_units: the number of units K that it knows: 0 … K-1.
        codebook_fingerprint: of the codebook that the units must come from; None where that is not known.
        predicts_durations: whether it can predict how long units last that come without durations.
    """

    frame_rate: float
    sample_rate: int

    @property
    def num_units(self) -> int: ...

    @property
    def codebook_fingerprint(self) -> str | None: ...

    @property
    def predicts_durations(self) -> bool: ...

    @property
    def settings(self) -> dict[str, Any]:
        """What the sound depends on beside the units, in values that JSON can hold."""
        ...

    def decode(self, units: torch.Tensor) -> torch.Tensor:
        """Sound (B, C, N) of units (B, T, C), with ``N = T * sample_rate / frame_rate``."""
        ...

    def predict_durations(self, units: torch.Tensor) -> torch.Tensor:
        """Frames (T,) that each of the deduplicated units (T,) lasts, 1 or more."""
        ...


class Utterance(NamedTuple):
    """A row of units that becomes sound.

    Attributes:
        name: of the row, for messages.
        number: of the row, and of the sample of it, which random numbers depend on.
        units: of each channel (C, T), one per frame or deduplicated.
        framed: whether they are one per frame.
        row: of the unit file or the manifest.
    """

    name: str
    number: tuple[int, int]
    units: Sequence[Sequence[int]]
    framed: bool
    row: Mapping[str, Any]


@runtime_checkable
class UtteranceVocoder(Protocol):
    """A vocoder that samples, several rows together, and decides itself how long deduplicated units last.

    Attributes:
        batch_size: rows that are made together.
    """

    batch_size: int

    def synthesize_batch(self, utterances: Sequence[Utterance], say: Callable[[str], object]) -> list[torch.Tensor]:
        """Sound (C, N) of each; ``say`` is called with what the user should know of a row."""
        ...


class Option(NamedTuple):
    """An option of the command line that belongs to one vocoder, or under one name to several.

    Attributes:
        name: ``--name``; its value goes to the vocoder's ``build`` by this name, with ``_`` for ``-``.
        help: with what happens without it.
        settings: further ones of ``add_argument``.
    """

    name: str
    help: str
    settings: Mapping[str, Any] = {}


class Registered(NamedTuple):
    """A vocoder in the registry.

    Attributes:
        path: ``module:class``, imported when asked for. Its ``build(codebook, device, **options)`` gets the options
            that were given.
        help: what it is, in a few words.
        options: of the command line.
    """

    path: str
    help: str
    options: tuple[Option, ...] = ()


# To add a vocoder, write a file with a class like Vocoder that has a class method build, and name it here.
VOCODERS = {
    "codebook": Registered(
        "speechdlm_ext.vocoders.codebook_inversion:CodebookVocoder",
        "log-mel centroids made sound, without weights",
        (
            Option("seed", "of the random numbers (default: 1)", {"type": int}),
            Option("pitches", "in Hz, one for each channel (default: 150 190)", {"type": float, "nargs": "+"}),
        ),
    ),
    "hifigan": Registered(
        "speechdlm_ext.vocoders.hifigan:HiFiGANVocoder",
        "a unit HiFi-GAN",
        (
            Option("vocoder-checkpoint", "the generator, a folder with generator.pt, or a published name"),
            Option("vocoder-config", "its options (default: config.json beside the checkpoint)", {"metavar": "FILE"}),
            Option("speakers", "number or name of the speaker of each channel (default: 0 4)", {"nargs": "+"}),
            Option("styles", "number or name of the style of each channel (default: 0)", {"nargs": "+"}),
        ),
    ),
    "wavtokenizer": Registered(
        "speechdlm_ext.hub.codec_vocoder:CodecVocoder",
        "codec tokens of an acoustic model (ELLA-V), decoded by WavTokenizer",
        (
            Option("acoustic", "the acoustic model, or the name of a published one, ellav-k500-l4500"),
            Option(
                "codec-checkpoint",
                "WavTokenizer or a published one's name, or KIND:MODEL of another codec (default: small_600_24k_4096)",
            ),
            Option("temperature", "divides the logits; 0 is greedy (default: 1)", {"type": float}),
            Option("top-p", "sample from the most probable tokens of this probability (default: 0.8)", {"type": float}),
            Option(
                "max-codec-tokens-per-phone", "of each unit without a duration (default: 10, 250 ms)", {"type": int}
            ),
            Option("max-tokens", "of a row, as published (its example: 1000; default: no limit)", {"type": int}),
            Option("published-limits", "decode as the public code does", {"action": "store_true", "default": None}),
            Option("batch-size", "rows that are decoded together (default: 8)", {"type": int}),
            Option("seed", "of the random numbers (default: 1)", {"type": int}),
        ),
    ),
}


def build_vocoder(name: str, codebook: Codebook | None, device: str | None = None, **options: Any) -> Vocoder:
    """Build a vocoder by its name in ``VOCODERS``.

    Args:
        name: of the vocoder.
        codebook: that the units come from, where it is known.
        device: where it computes; a GPU where there is one by default.
        options: of this vocoder; those of others are refused.

    Raises:
        InputError: an option is missing or wrong, a file is damaged, or vocoder and codebook do not belong together.
    """
    if name not in VOCODERS:
        raise InputError(f"vocoder {name!r}: there is {', '.join(VOCODERS)}")
    known = [option.name.replace("-", "_") for option in VOCODERS[name].options]
    for option in options:
        if option not in known:
            owner = next(
                (other for other, one in VOCODERS.items() if option.replace("_", "-") in [o.name for o in one.options]),
                "another one",
            )
            raise InputError(f"--{option.replace('_', '-')} is for --vocoder {owner}")
    module, _, cls = VOCODERS[name].path.partition(":")
    vocoder: Vocoder = getattr(import_module(module), cls).build(codebook, device, **options)
    if codebook is not None:
        check_codebook(vocoder, codebook)
    return vocoder


def check_units(units: torch.Tensor, count: int, axes: str = "B, T, C") -> None:
    """Raise an InputError unless ``units`` are of that shape, and among the ``count`` units of the vocoder."""
    if units.dim() != len(axes.replace(",", " ").split()) or not units.numel():
        raise InputError(f"units ({axes}) are expected, found shape {tuple(units.shape)}")
    lowest, highest = int(units.min()), int(units.max())
    if lowest < 0 or highest >= count:
        raise InputError(
            f"unit {lowest if lowest < 0 else highest} is not among those of the vocoder, which has 0 to {count - 1}: "
            "take the vocoder or codebook that belongs to the units"
        )


def check_codebook(vocoder: Vocoder, codebook: Codebook) -> None:
    """Raise an InputError that names both, where the vocoder is not for the units of the codebook."""
    if codebook.frame_rate and codebook.frame_rate != vocoder.frame_rate:
        raise InputError(
            f"the codebook's units come at {codebook.frame_rate:g} Hz, the vocoder takes {vocoder.frame_rate:g} Hz: "
            "take a vocoder that belongs to the codebook"
        )
    if codebook.num_units != vocoder.num_units:
        raise InputError(
            f"the codebook has {codebook.num_units} units, the vocoder {vocoder.num_units}: "
            "take a vocoder that belongs to the codebook"
        )
    expected = vocoder.codebook_fingerprint
    if expected is not None and expected != codebook.fingerprint:
        raise InputError(
            f"the vocoder is for the codebook {expected}, this one is {codebook.fingerprint}: "
            "take a vocoder that belongs to the codebook"
        )
