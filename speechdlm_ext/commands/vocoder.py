"""Options of the commands that turn units into sound: which vocoder, and the options of each in the registry."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from speechdlm_ext.commands.old_names import add_renamed
from speechdlm_ext.errors import InputError
from speechdlm_ext.vocoders.base import VOCODERS

if TYPE_CHECKING:  # torch is imported where it is needed, so that a command's --help does not wait for it
    from collections.abc import Callable

    from speechdlm_ext.units.codebook import Codebook
    from speechdlm_ext.units.pipeline import UnitPipeline
    from speechdlm_ext.vocoders.base import Vocoder


def add_vocoder_options(
    parser: argparse.ArgumentParser, renamed: dict[str, str] | None = None, device: bool = True
) -> None:
    """Add the options that :func:`vocoder_from` reads: ``--vocoder``, and a group of options for each of them.

    Args:
        parser: of the command.
        renamed: by the option's name, an old name of it.
        device: whether to add ``--device``, which the parser may have for an encoder already.
    """
    known = "; ".join(f"{name}: {vocoder.help}" for name, vocoder in VOCODERS.items())
    parser.add_argument("--vocoder", choices=tuple(VOCODERS), default="codebook", help=f"{known} (default: codebook)")
    if device:
        parser.add_argument("--device", help="cpu, cuda, … (default: a GPU where there is one)")
    parser.add_argument(
        "--voice",
        metavar="FILE",
        help="keep the speaker of this recording, or of the recordings of a manifest (.jsonl), each for the row of its "
        "id; --vocoder wavtokenizer takes it (default: a speaker that sampling gives)",
    )
    known_options: set[str] = set()
    for name, vocoder in VOCODERS.items():
        group = parser.add_argument_group(f"--vocoder {name}")
        for option in vocoder.options:
            if option.name in known_options:
                continue
            known_options.add(option.name)
            old = [(renamed or {})[option.name]] if option.name in (renamed or {}) else []
            add_renamed(group, f"--{option.name}", *old, help=option.help, **option.settings)


def vocoder_from(
    options: argparse.Namespace, codebook: Codebook | None, pipeline: Callable[[], UnitPipeline] | None = None
) -> Vocoder:
    """The vocoder of a command's options; raises InputError as :func:`.build_vocoder` does.

    Args:
        options: parsed by a parser with :func:`add_vocoder_options`.
        codebook: that the units come from.
        pipeline: what makes units of the recordings of ``--voice``.
    """
    from speechdlm_ext.vocoders.base import build_vocoder

    names = {option.name.replace("-", "_") for vocoder in VOCODERS.values() for option in vocoder.options}
    given = {name: getattr(options, name) for name in sorted(names) if getattr(options, name) is not None}
    vocoder = build_vocoder(options.vocoder, codebook, options.device, **given)
    if pipeline is not None and options.voice is not None:
        from speechdlm_ext.hub.codec_vocoder import CodecVocoder
        from speechdlm_ext.hub.voices import Voices

        if not isinstance(vocoder, CodecVocoder):
            raise InputError("--voice is for --vocoder wavtokenizer")
        vocoder.voices = Voices(options.voice, pipeline(), vocoder.codec)
    return vocoder
