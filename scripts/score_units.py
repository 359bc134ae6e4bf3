"""Log-likelihood of every sequence of a unit file, by a unit language model, or of every dialogue by a SpeechDLM."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from speechdlm_ext.commands.model import add_machine_options, add_model_options, made_by
from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.io.sharding import add_shard_option, find_shard
from speechdlm_ext.modules.devices import open_device


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="Stopped anywhere and started again, it goes on. Shards are joined by data_prep/merge_manifest.py. "
        "scripts/evaluate_scores.py makes accuracies of scores.",
    )
    parser.add_argument("units", type=Path, help="unit file: JSON lines, or the published dict lines")
    parser.add_argument(
        "scores",
        type=Path,
        help="file to write: lines of 'key log-likelihood' in nats; SCORES.shard-I-of-N with --shard; a row without "
        "units is nan, and SCORES.errors says why",
    )
    add_model_options(parser)
    parser.add_argument("--normalize", action="store_true", help="divide by the number of units")
    parser.add_argument("--ending", action="store_true", help="score the boundary after the last unit, too")
    parser.add_argument("--channel", help="the one to score, of units with several, with a model of one")
    parser.add_argument("--deduplicate", action="store_true", help="make one unit of a run of equal ones")
    parser.add_argument(
        "--batch-units",
        type=int,
        help="units that go through the model together (default: 12288, on a CPU 2048)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    add_shard_option(parser)
    add_machine_options(parser)
    return parser


def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    shard = find_shard(args.shard, args.scores)
    output = args.scores if shard is None else shard.path(args.scores)
    if output.exists() and not args.overwrite:  # told before a model is loaded
        raise InputError(f"{output} is there already: pass --overwrite to replace it")

    import torch
    from tqdm import tqdm

    from speechdlm_ext.hub.load import checkpoint_files, load_model
    from speechdlm_ext.hub.score_file import score_unit_file
    from speechdlm_ext.io.manifest import errors_path

    device = open_device(args.device)
    model = load_model(args.checkpoint, args.data).to(device=device, dtype=getattr(torch, args.dtype))
    with tqdm(unit=" units", desc="scoring", mininterval=1.0, disable=None) as bar:
        scores = score_unit_file(
            model,
            args.units,
            args.scores,
            normalize=args.normalize,
            ending=args.ending,
            channel=args.channel,
            deduplicate=args.deduplicate,
            batch_units=args.batch_units,
            made_by=made_by(checkpoint_files(args.checkpoint), device, args.dtype),
            overwrite=args.overwrite,
            progress=bar.update,
            shard=shard,
        )
    empty = [score.key for score in scores if score.reason]
    print(f"{output}: {len(scores) - len(empty)} scored")
    if empty:
        shown = ", ".join(empty[:5]) + (", …" if len(empty) > 5 else "")
        print(f"without units, nan in the file: {len(empty)} ({shown}); {errors_path(output)}")


if __name__ == "__main__":
    run_command(main)
