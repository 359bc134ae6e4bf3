"""Binarize unit files for fairseq-train, all channels at once: what fairseq-preprocess would write, byte by byte."""

from __future__ import annotations

import argparse

from speechdlm_ext.errors import run_command
from speechdlm_ext.io.pool import available_cores


def get_parser() -> argparse.ArgumentParser:
    """The command line; options that fairseq-preprocess has too have its names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--trainpref",
        metavar="PREFIX",
        help="training data: a unit file (.jsonl), or the prefix of text files, raw/train for raw/train.unitA, …",
    )
    parser.add_argument("--validpref", metavar="PREFIX", help="validation data; several, separated by commas")
    parser.add_argument("--testpref", metavar="PREFIX", help="test data; several, separated by commas")
    parser.add_argument("--destdir", metavar="DIR", required=True, help="gets dict.<channel>.txt, <split>.<channel>.…")
    parser.add_argument("--channels", help="comma-separated channels (default: unitA, unitB, … that are there)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--srcdict", metavar="FILE", help="a dictionary that is there already, for all channels")
    which.add_argument(
        "--dictionary",
        choices=("first", "joined", "each"),
        default="first",
        help="made from the first channel's units for all channels, as published; from all channels' units for all; or "
        "for each channel from its own (default: %(default)s)",
    )
    parser.add_argument(
        "--names",
        choices=("plain", "fairseq"),
        default="plain",
        help="train.unitA.bin, or train.unitA-None.unitA.bin as fairseq-preprocess has it (default: %(default)s)",
    )
    parser.add_argument("--keep-empty-lines", action="store_true", help="they separate documents")
    parser.add_argument("--documents", dest="keep_empty_lines", action="store_true", help=argparse.SUPPRESS)
    workers = min(8, available_cores())
    parser.add_argument("--num-workers", type=int, default=workers, help="processes (default: %(default)s)")
    parser.add_argument("--workers", dest="num_workers", type=int, default=workers, help=argparse.SUPPRESS)
    parser.add_argument("--overwrite", action="store_true", help="replace binarized data that is there")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from tqdm import tqdm

    from speechdlm_ext.data.binarization import binarize

    prefixes = {"train": options.trainpref} if options.trainpref else {}
    for split in ("valid", "test"):
        listed = getattr(options, f"{split}pref")
        for number, prefix in enumerate(listed.split(",") if listed else []):
            prefixes[f"{split}{number or ''}"] = prefix
    with tqdm(desc="binarizing", unit="B", unit_scale=True, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        made = binarize(
            prefixes,
            options.destdir,
            options.channels.split(",") if options.channels is not None else None,
            options.srcdict,
            options.dictionary,
            options.names,
            options.keep_empty_lines,
            options.num_workers,
            options.overwrite,
            progress,
        )
    for (split, channel), column in made.columns.items():
        print(f"{split} {channel}: {sum(column.lines):,} lines, {column.frames:,} frames")
        if column.unknown:
            units = ", ".join(sorted(column.unknown)[:5]) + (", …" if len(column.unknown) > 5 else "")
            print(
                f"{split} {channel}: {sum(column.unknown.values()):,} of these are not in the dictionary and become "
                f"<unk> ({units}); --dictionary joined has the units of all channels"
            )
    sizes = ", ".join(f"{len(v)} types in {c}" for c, v in made.vocabularies.items())
    print(f"{sizes}; files in {options.destdir}")


if __name__ == "__main__":
    run_command(main)
