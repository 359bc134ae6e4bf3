"""The vocoder that a command's options ask for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from speechdlm_ext.errors import InputError

if TYPE_CHECKING:
    from speechdlm_ext.units.codebook import Codebook
    from speechdlm_ext.vocoders.base import Vocoder

PITCHES = (150.0, 190.0)


def add_vocoder_options(parser: argparse.ArgumentParser, *aliases: str, device: bool = True) -> None:
    """Add the options that :func:`build_vocoder` reads.

    Args:
        parser: of the command.
        aliases: further names of ``--vocoder-checkpoint``.
        device: whether to add ``--device``, which the parser may have for an encoder already.
    """
    group = parser.add_argument_group("vocoder")
    group.add_argument(
        "--vocoder",
        choices=("codebook", "hifigan"),
        default="codebook",
        help="codebook: log-mel centroids made sound, without weights; hifigan: a unit HiFi-GAN (default: codebook)",
    )
    group.add_argument("--seed", type=int, default=1, help="codebook: of the noise in the voices (default: 1)")
    group.add_argument(
        "--pitches",
        type=float,
        nargs="+",
        default=list(PITCHES),
        metavar="HZ",
        help="codebook: of the voices, one for each channel (default: 150 190)",
    )
    group.add_argument(
        "--iterations",
        type=int,
        default=0,
        help="codebook: of Griffin-Lim phase reconstruction (default: 0, a source's phases)",
    )
    group.add_argument(
        "--vocoder-checkpoint",
        *aliases,
        type=Path,
        dest="vocoder_checkpoint",
        metavar="FILE",
        help="hifigan: the generator, a folder with generator.pt, or the name of a published one (docs/vocoders.md)",
    )
    group.add_argument(
        "--vocoder-config",
        *(alias.replace("checkpoint", "config") for alias in aliases),
        type=Path,
        dest="vocoder_config",
        metavar="FILE",
        help="hifigan: its options (default: config.json beside the checkpoint)",
    )
    group.add_argument(
        "--speakers",
        nargs="+",
        metavar="SPEAKER",
        help="hifigan: number or name of the speaker of each channel (default: 0 4)",
    )
    group.add_argument(
        "--styles", nargs="+", metavar="STYLE", help="hifigan: number or name of the style of each channel (default: 0)"
    )
    if device:
        group.add_argument("--device", help="hifigan: cpu, cuda, … (default: a GPU where there is one)")


def build_vocoder(options: argparse.Namespace, codebook: Codebook | None) -> Vocoder:
    """The vocoder of a command's options.

    Args:
        options: parsed by a parser with :func:`add_vocoder_options`.
        codebook: that the units come from; what ``--vocoder codebook`` speaks from.

    Raises:
        InputError: an option is missing or wrong, a file is damaged, or vocoder and codebook do not belong together.
    """
    vocoder: Vocoder
    if options.vocoder == "codebook":
        from speechdlm_ext.vocoders.codebook_inversion import CodebookVocoder

        if codebook is None:
            raise InputError("--codebook is needed: that the units were made with")
        for name in ("vocoder_checkpoint", "speakers", "styles"):
            if getattr(options, name):
                raise InputError(f"--{name.replace('_', '-')} is for --vocoder hifigan")
        vocoder = CodebookVocoder(codebook, options.seed, options.pitches, options.iterations)
    else:
        from speechdlm_ext.vocoders.hifigan import HiFiGANVocoder

        if options.vocoder_checkpoint is None:
            raise InputError("--vocoder hifigan needs a checkpoint: --vocoder-checkpoint FILE")
        device = options.device or _usual_device()
        vocoder = HiFiGANVocoder.load(
            options.vocoder_checkpoint, options.vocoder_config, options.speakers, options.styles, device
        )
    if codebook is not None:
        check_codebook(vocoder, codebook)
    return vocoder


def check_codebook(vocoder: Vocoder, codebook: Codebook) -> None:
    """Raise an InputError that names both, where the vocoder is not for the units of the codebook."""
    if codebook.frame_rate and codebook.frame_rate != vocoder.frame_rate:
        raise InputError(
            f"the codebook's units come at {codebook.frame_rate:g} Hz, the vocoder takes {vocoder.frame_rate:g} Hz: "
            "take a vocoder that belongs to the codebook"
        )
    if codebook.units != vocoder.units:
        raise InputError(
            f"the codebook has {codebook.units} units, the vocoder {vocoder.units}: "
            "take a vocoder that belongs to the codebook"
        )
    wanted = vocoder.codebook_fingerprint
    if wanted is not None and wanted != codebook.fingerprint:
        raise InputError(
            f"the vocoder is for the codebook {wanted}, this one is {codebook.fingerprint}: "
            "take a vocoder that belongs to the codebook"
        )


def _usual_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
