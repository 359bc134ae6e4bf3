"""Continue the rows of a unit file with a trained model: sequences of one channel's units, or dialogues."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from speechdlm_ext.commands.model import (
    add_machine_options,
    add_model_options,
    add_search_options,
    made_by,
    search_options,
)
from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.io.sharding import Shard, add_shard_option, find_shard
from speechdlm_ext.modules.devices import open_device


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="Stopped anywhere and started again, it goes on. Shards are joined by data_prep/merge_manifest.py. "
        "scripts/synthesize.py speaks what it writes.",
    )
    parser.add_argument("units", type=Path, help="unit file of prompts; a row without units begins an utterance")
    parser.add_argument(
        "out",
        type=Path,
        help="unit file to write: prompts with their continuations; - for standard output; OUT.shard-I-of-N with "
        "--shard",
    )
    add_model_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument(
        "--prompt-units", "--prompt-frames", type=int, help="cut each prompt to its first units (of dialogues: frames)"
    )
    prompts.add_argument("--channel", help="the one to continue, of rows with several, with a model of one")
    prompts.add_argument("--samples", type=int, default=1, help="continuations of each prompt")
    prompts.add_argument("--batch-size", type=int, default=8, help="prompts at a time")
    prompts.add_argument(
        "--seed", type=int, default=1, help="of the run; each sample of each row has random numbers of its own"
    )
    add_search_options(parser, beam=1)
    length = parser.add_argument_group("length")
    length.add_argument(
        "--max-len-b",
        type=int,
        default=argparse.SUPPRESS,
        help="greatest number of units, prompt included (default: 500; with --max-seconds, as many as they can be)",
    )
    length.add_argument(
        "--max-seconds",
        type=float,
        help="seconds at which a sequence ends, prompt included, as long as the model says that its units last (and "
        "the row, of those of the prompt); for models of one channel",
    )
    length.add_argument(
        "--frame-rate", type=float, help="frames per second, for the seconds of units that are not deduplicated"
    )
    length.add_argument("--min-len", type=int, default=1, help="least number of units, which no end comes before")
    add_shard_option(parser)
    add_machine_options(parser)
    return parser


def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        piped = str(args.out) == "-"
        if piped:
            args.out = Path(folder, "samples.jsonl")
        shard = find_shard(args.shard, args.out)
        output = args.out if shard is None else shard.path(args.out)
        count = sample(args, shard, output)
        if piped:
            sys.stdout.write(output.read_text(encoding="utf-8"))
    print(f"{'standard output' if piped else output}: {count} continued", file=sys.stderr if piped else sys.stdout)


def sample(args: argparse.Namespace, shard: Shard | None, output: Path) -> int:
    """Continue the rows; returns how many there are."""
    if output.exists() and not args.overwrite:  # told before a model is loaded
        raise InputError(f"{output} is there already: pass --overwrite to replace it")

    import torch
    from tqdm import tqdm

    from speechdlm_ext.hub import UnitModel
    from speechdlm_ext.hub.load import checkpoint_files, load_model
    from speechdlm_ext.hub.sample_file import continue_unit_file
    from speechdlm_ext.hub.sampling import decoding_options

    device = open_device(args.device)
    model = load_model(args.checkpoint, args.data)
    settings = {**search_options(args), "min_len": args.min_len}
    settings.update({"max_len_b": args.max_len_b} if hasattr(args, "max_len_b") else {})
    if isinstance(model, UnitModel):
        model.frame_rate = args.frame_rate or model.frame_rate
        settings = model.with_seconds({**settings, "stop_at_end": True}, args.max_seconds)
    elif args.max_seconds or args.frame_rate:
        raise InputError("--max-seconds and --frame-rate are for models of one channel: --max-len-b counts frames")
    beam = settings.pop("beam")
    with tqdm(unit=" units", desc="sampling", mininterval=1.0, disable=None) as bar:
        rows = continue_unit_file(
            model.to(device=device, dtype=getattr(torch, args.dtype)),
            args.units,
            args.out,
            decoding_options({"max_len_b": 500, **settings}, beam),
            seed=args.seed,
            samples=args.samples,
            prompt_frames=args.prompt_units,
            batch_size=args.batch_size,
            made_by=made_by(checkpoint_files(args.checkpoint), device, args.dtype),
            overwrite=args.overwrite,
            progress=bar.update,
            say=lambda line: tqdm.write(line, file=sys.stderr),
            channel=args.channel,
            shard=shard,
        )
    return len(rows)


if __name__ == "__main__":
    run_command(main)
