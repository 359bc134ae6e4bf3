"""Continue dialogues given as units with a trained SpeechDLM."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from speechdlm_ext.commands.model import add_machine_options, add_search_options, made_by, search_options
from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.io.sharding import add_shard_option, find_shard
from speechdlm_ext.modules.devices import open_device


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    files = parser.add_argument_group("files")
    files.add_argument("--in-file", required=True, help="unit file of prompts: JSON lines, or the published dict lines")
    files.add_argument("--out-file", required=True, help="unit file to write: prompts with their continuations")
    add_shard_option(files)
    files.add_argument(
        "--ckpt",
        required=True,
        help="checkpoint; several, separated by colons, make an ensemble; or a folder that save_pretrained wrote",
    )
    files.add_argument("--data", default=".", help='folder with dict.<channel>.txt; "." is also that of the checkpoint')
    files.add_argument("--overwrite", action="store_true", help="replace --out-file if it is there")
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument("--prompt-frames", "--prefix-size", type=int, help="cut each prompt to its first frames")
    prompts.add_argument(
        "--condition-on",
        metavar="CHANNEL",
        help="this channel is given in full, and the others are continued beside it, from their --prompt-frames",
    )
    prompts.add_argument("--samples", type=int, default=1, help="continuations of each prompt")
    prompts.add_argument("--batch-size", "--batch-max-sentences", type=int, default=8, help="prompts at a time")
    search = add_search_options(parser, beam=5)
    search.add_argument("--max-len-a", type=float, default=0.0, help="total frames: a times those of the prompt …")
    search.add_argument(
        "--max-len-b",
        type=int,
        default=argparse.SUPPRESS,
        help="… plus b, prompt included (default: 500; with --condition-on, the length of the given channel)",
    )
    search.add_argument("--min-len", type=int, default=1, help="least number of frames")
    search.add_argument(
        "--no-slide", action="store_true", help="refuse what is longer than the model's window, which else slides"
    )
    search.add_argument(
        "--seed", type=int, default=123, help="of the run; each sample of each row has random numbers of its own"
    )
    add_machine_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()

    import torch
    from tqdm import tqdm

    from speechdlm_ext.generation.options import DecodingOptions
    from speechdlm_ext.hub import load_speech_dlm
    from speechdlm_ext.hub.sample_file import continue_unit_file
    from speechdlm_ext.hub.sampling import AS_LONG_AS_THE_PROMPT

    length = {"max_len_a": args.max_len_a, "max_len_b": getattr(args, "max_len_b", 500)}
    if args.condition_on and not args.max_len_a and not hasattr(args, "max_len_b"):
        length = AS_LONG_AS_THE_PROMPT
    options = DecodingOptions(
        **search_options(args),
        min_len=args.min_len,
        slide=not args.no_slide,
        **length,
    )
    folder = Path(args.ckpt) if Path(args.ckpt).is_dir() else None  # of save_pretrained
    paths = [folder / "model.safetensors"] if folder else [Path(path) for path in args.ckpt.split(":")]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such checkpoint")
    shard = find_shard(args.shard, args.out_file)
    device = open_device(args.device)
    if folder:
        model = load_speech_dlm(folder)
    else:
        model = load_speech_dlm(paths[0].parent, ":".join(str(path.resolve()) for path in paths), args.data)
    model.to(device=device, dtype=getattr(torch, args.dtype))
    with tqdm(unit=" frames", desc="sampling", mininterval=1.0) as bar:
        rows = continue_unit_file(
            model,
            args.in_file,
            args.out_file,
            options,
            seed=args.seed,
            samples=args.samples,
            prompt_frames=args.prompt_frames,
            condition_on=args.condition_on,
            batch_size=args.batch_size,
            made_by=made_by(paths, device, args.dtype),
            overwrite=args.overwrite,
            progress=bar.update,
            shard=shard,
        )
    output = args.out_file if shard is None else shard.path(args.out_file)
    print(f"{output}: {len(rows)} dialogues of {', '.join(model.channels)}")


if __name__ == "__main__":
    run_command(main)
