"""Evaluate a duplex model on conversations: what it says, when it begins, and whether it lets itself be interrupted."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from speechdlm_ext.commands.model import add_machine_options
from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.modules.devices import open_device


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="The sound is in the layout of Full-Duplex-Bench (<id>/input.wav, <id>/output.wav), which "
        "scripts/evaluate_dialogue.py reads, too.",
    )
    parser.add_argument("inputs", type=Path, help="JSON lines of conversations, or cuts of lhotse")
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="folder of save_pretrained or as published, or a checkpoint of fairseq-train",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the sound, turns.jsonl and figures.json")
    parser.add_argument("--asr", metavar="KIND:MODEL", help="recognise the sound: ASR-BLEU and word errors")
    parser.add_argument("--input-roles", default="user,User", help="speakers of the user's side (default: %(default)s)")
    parser.add_argument("--output-roles", default="agent,Assistant", help="and of the agent's (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="only so many conversations")
    parser.add_argument("--temperature", type=float, default=0.0, help="of the codes; 0 is greedy (default)")
    parser.add_argument("--text-temperature", type=float, default=0.0, help="of the text; 0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=-1, help="sample from this many most probable tokens; -1 for all")
    parser.add_argument("--top-p", type=float, default=-1, help="sample from the top tokens of this probability")
    parser.add_argument("--seed", type=int, default=1, help="of samples (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the figures that are there")
    add_machine_options(parser)
    parser.add_argument("--int8", action="store_true", help="linear layers with weights of 8 bits, on a CPU")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    target = options.output / "figures.json"
    if target.exists() and not options.overwrite:
        raise InputError(f"{target} exists: pass --overwrite to replace it")
    import torch

    from speechdlm_ext.asr import build_recogniser
    from speechdlm_ext.data.duplex_cuts import read_cuts
    from speechdlm_ext.data.duplex_dataset import DuplexS2SDataset
    from speechdlm_ext.evaluation.duplex import converse, figures
    from speechdlm_ext.generation.duplex import DuplexOptions
    from speechdlm_ext.hub.duplex import load_duplex
    from speechdlm_ext.io.atomic import atomic_write
    from speechdlm_ext.io.manifest import write_jsonl

    decoding = DuplexOptions(options.temperature, options.text_temperature, options.top_k, options.top_p, options.seed)
    cuts = read_cuts(options.inputs)[: options.limit]
    recogniser = build_recogniser(options.asr) if options.asr else None
    model = load_duplex(options.checkpoint).to(open_device(options.device), getattr(torch, options.dtype))
    if options.int8:
        if model.device.type != "cpu" or options.dtype != "float32":
            raise InputError("--int8 is for --device cpu --dtype float32")
        model.to_int8()
    dataset = DuplexS2SDataset(
        model.tokenizer,
        1 / model.perception.frame_rate,
        model.source_sample_rate,
        model.target_sample_rate,
        options.input_roles.split(","),
        options.output_roles.split(","),
        cut_at_turn_end=True,
        needs_target=False,
    )
    talks = converse(model, cuts, options.output, dataset, recogniser, decoding)
    write_jsonl(
        options.output / "turns.jsonl",
        (
            {"id": talk.name, "duration": talk.duration, "heard": talk.heard}
            | {side: [vars(turn) for turn in getattr(talk, side)] for side in ("user", "reference", "agent")}
            for talk in talks
        ),
    )
    found = figures(talks)
    with atomic_write(target) as file:
        json.dump(found, file, indent=2)
    for name, value in found.items():
        if not isinstance(value, dict):
            print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")


if __name__ == "__main__":
    run_command(main)
