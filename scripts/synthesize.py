"""Turn a unit file into wav files, one channel of sound for each channel of units."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from speechdlm_ext.commands.old_names import add_renamed
from speechdlm_ext.commands.page import add_page_options, check_page_options, spread
from speechdlm_ext.commands.presets import add_preset_options, parse_with_preset
from speechdlm_ext.commands.units import add_unit_options, load_pipeline
from speechdlm_ext.commands.vocoder import add_vocoder_options, vocoder_from
from speechdlm_ext.errors import InputError, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Stopped anywhere and started again, it makes the files that are missing. "
        "--vocoder codebook needs --codebook; the options of codebook and encoder are of --voice otherwise.",
    )
    parser.add_argument(
        "units", type=Path, help='lines of {"audio": name, "unitA": "7 376 …", "unitB": "…"}; - for standard input'
    )
    parser.add_argument("folder", type=Path, help="gets <audio>.wav for every line")
    add_renamed(
        parser, "--frame-level", "--duplicated", action="store_true",
        help="there is one unit for every frame, in a file that does not say so",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="replace existing wav files of other units or settings"
    )
    add_page_options(parser, "write a page to listen, with the recordings of --voice")
    add_preset_options(parser)
    add_unit_options(parser, required=False)
    add_vocoder_options(parser, {"vocoder-checkpoint": "--checkpoint", "vocoder-config": "--config"}, device=False)
    return parser


def main() -> None:
    """Run the command."""
    options = parse_with_preset(get_parser())
    check_page_options(options)
    from tqdm import tqdm

    from speechdlm_ext.units.codebook_files import load_codebook
    from speechdlm_ext.units.files import read_unit_file
    from speechdlm_ext.vocoders.synthesize import synthesize_rows

    rows = read_unit_file("/dev/stdin" if str(options.units) == "-" else options.units)
    # A preset's codebook is for --voice alone.
    codebook = load_codebook(options.codebook) if options.codebook and not options.preset else None
    vocoder = vocoder_from(options, codebook, lambda: load_pipeline(options))
    if options.k not in (None, vocoder.num_units):
        raise InputError(f"--k {options.k}: the vocoder is of {vocoder.num_units} units; take the one of these units")
    paths = synthesize_rows(
        rows,
        vocoder,
        options.folder,
        overwrite=options.overwrite,
        progress=lambda items: tqdm(items, desc="synthesis", unit="file", disable=None),
        say=lambda line: tqdm.write(line, file=sys.stderr),
        frame_level=options.frame_level or None,
    )
    print(f"{len(paths)} wav files: {options.folder}")
    if options.html:
        from speechdlm_ext.report.listening import write_listening_page

        voices = getattr(vocoder, "voices", None)
        pairs = [(path.stem, voices.recording(path.stem) if voices else [], path) for path in paths]
        lead = f"Units of {options.units.name}, vocoder {options.vocoder}. The first 20 s of each."
        write_listening_page(options.html, "Synthesis", lead, spread(pairs, options.html_items), vocoder.sample_rate)
        print(options.html)


if __name__ == "__main__":
    run_command(main)
