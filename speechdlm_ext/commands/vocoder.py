"""Options of the commands that turn units into sound: which vocoder, and the options of each in the registry."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from speechdlm_ext.commands.old_names import add_renamed
from speechdlm_ext.vocoders.base import VOCODERS

if TYPE_CHECKING:  # torch is imported where it is needed, so that a command's --help does not wait for it
    from speechdlm_ext.units.codebook import Codebook
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
    for name, vocoder in VOCODERS.items():
        group = parser.add_argument_group(f"--vocoder {name}")
        for option in vocoder.options:
            old = [(renamed or {})[option.name]] if option.name in (renamed or {}) else []
            add_renamed(group, f"--{option.name}", *old, help=option.help, **option.settings)


def vocoder_from(options: argparse.Namespace, codebook: Codebook | None) -> Vocoder:
    """The vocoder of a command's options; raises InputError as :func:`.build_vocoder` does.

    Args:
        options: parsed by a parser with :func:`add_vocoder_options`.
        codebook: that the units come from.
    """
    from speechdlm_ext.vocoders.base import build_vocoder

    names = {option.name.replace("-", "_") for vocoder in VOCODERS.values() for option in vocoder.options}
    given = {name: getattr(options, name) for name in sorted(names) if getattr(options, name) is not None}
    return build_vocoder(options.vocoder, codebook, options.device, **given)
