"""Conversations for duplex models from two-channel recordings with transcripts: train.jsonl and valid.jsonl."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from speechdlm_ext.commands.model import add_machine_options
from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.modules.devices import open_device


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Stopped anywhere and started again, it continues after the last whole segment.",
    )
    parser.add_argument(
        "manifest",
        type=Path,
        help="JSON lines of stereo recordings or pairs of files, as data_prep/make_manifest.py and make_dialogues.py "
        "write them, or cuts of lhotse",
    )
    parser.add_argument("output", type=Path, help="folder for train.jsonl and valid.jsonl")
    parser.add_argument(
        "--transcripts",
        type=Path,
        help="JSON lines with id and supervisions: start, duration or end (s), text, speaker or channel (default: the "
        "manifest's own, or those of synthetic dialogues)",
    )
    parser.add_argument("--agent-channel", type=int, choices=(0, 1), default=1, help="default: %(default)s")
    parser.add_argument(
        "--codec",
        metavar="KIND:MODEL",
        help="add the agent's sound as its codes, as units:exp/codebook.safetensors; must be the model's "
        "pretrained_audio_codec (default: the sound is encoded while training)",
    )
    parser.add_argument(
        "--vocab-size",
        type=int,
        metavar="N",
        help="make a tokenizer of N pieces of the agent's texts, tokenizer.model, for a language model of our own",
    )
    parser.add_argument("--valid", type=float, default=0.1, help="share of the time to hold out (default: 0.1)")
    parser.add_argument("--segment-seconds", type=float, default=30, help="longest segment (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of recordings (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    add_machine_options(parser)
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    if not options.segment_seconds >= 1:
        raise InputError(f"--segment-seconds {options.segment_seconds:g}: 1 or more is expected")
    parts = {name: options.output / f"{name}.jsonl" for name in ("train", "valid")}
    if not options.overwrite and (there := [path for path in parts.values() if path.exists()]):
        raise InputError(f"{there[0]} exists: pass --overwrite to replace it")
    from speechdlm_ext.data.duplex_corpus import (
        conversations,
        cut_conversation,
        read_transcripts,
        split_conversations,
        train_tokenizer,
    )
    from speechdlm_ext.io.manifest import write_jsonl

    whole = conversations(options.manifest, read_transcripts(options.transcripts), options.agent_channel)
    rows = [part for row in whole for part in cut_conversation(row, options.segment_seconds)]
    if not rows:
        raise InputError(f"{options.manifest}: no recordings in it")
    options.output.mkdir(parents=True, exist_ok=True)
    if options.codec:
        rows = _with_codes(rows, options)
    if options.vocab_size:
        train_tokenizer(rows, options.vocab_size, options.output / "tokenizer.model")
    for name, part in split_conversations(rows, options.valid, options.seed).items():
        write_jsonl(parts[name], part)
        print(f"{parts[name]}: {len(part)} segments, {sum(row['duration'] for row in part):.1f} s")


def _with_codes(rows: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    import torch
    from tqdm import tqdm

    from speechdlm_ext.codecs import build_codec
    from speechdlm_ext.codecs.tokens import encode_codec
    from speechdlm_ext.data.duplex_corpus import target_rows
    from speechdlm_ext.io.manifest import read_jsonl
    from speechdlm_ext.io.progress import count

    codec = build_codec(options.codec, device=open_device(options.device))
    if options.dtype != "float32":
        codec.to(dtype=getattr(torch, options.dtype))

    def progress(to_do: Iterable[Any]) -> Iterator[Any]:
        listed = list(to_do)
        return count(listed, len(listed), "encoding", "segments", tqdm.write)

    encoded = options.output / "codes.jsonl"
    made_by = {"codec": codec.identity, "codebooks": codec.num_codebooks, "dtype": options.dtype}
    encode_codec(target_rows(rows), codec, encoded, made_by, overwrite=True, progress=progress, say=tqdm.write)
    codes = {row["id"]: row for row in read_jsonl(encoded)}
    encoded.unlink()
    kept = [row for row in rows if row["id"] in codes]
    return [{**row, **{key: codes[row["id"]][key] for key in ("codec", "codec_rate")}} for row in kept]


if __name__ == "__main__":
    run_command(main)
