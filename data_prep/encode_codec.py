"""Add the tokens of an audio codec to the rows of a manifest, for training unit-to-codec models."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from speechdlm_ext.codecs.registry import CODECS
from speechdlm_ext.commands.model import add_machine_options
from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.io.sharding import add_shard_option, find_shard
from speechdlm_ext.modules.devices import open_device


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Stopped anywhere and started again, it continues after the last whole recording. Shards are joined by "
        "data_prep/merge_manifest.py.",
    )
    parser.add_argument("manifest", type=Path, help="JSON lines with audio_filepath, of one channel each")
    parser.add_argument("output", type=Path, help="file to write: the rows with codec and codec_rate")
    known = "; ".join(f"{name}: {codec.help}" for name, codec in CODECS.items())
    parser.add_argument(
        "--codec", choices=sorted(CODECS), default="wavtokenizer", help=f"{known} (default: %(default)s)"
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="its file, folder or name: small_600_24k_4096, kyutai/mimi, facebook/encodec_24khz, FILE.nemo, or "
        "CODEBOOK[,VOCODER_CHECKPOINT] of units",
    )
    parser.add_argument(
        "--num-codebooks", type=int, metavar="Q", help="the first Q of a residual quantizer (default: all)"
    )
    add_shard_option(parser)
    add_machine_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    shard = find_shard(options.shard, options.output)
    if options.output.resolve() == options.manifest.resolve():
        raise InputError(f"{options.output} is the manifest: name another file for the rows with codec tokens")
    import torch
    from tqdm import tqdm

    from speechdlm_ext.codecs.registry import build_codec
    from speechdlm_ext.codecs.tokens import encode_codec
    from speechdlm_ext.io.progress import count
    from speechdlm_ext.io.recordings import read_manifest

    rows: Sequence[dict[str, Any]] = read_manifest(options.manifest)
    output = options.output
    if shard is not None:
        rows, output = shard.take(rows), shard.path(output)
        print(f"shard {shard}: {len(rows)} recordings", flush=True)
    codec = build_codec(f"{options.codec}:{options.checkpoint}", options.num_codebooks, open_device(options.device))
    if options.dtype != "float32":
        codec.to(dtype=getattr(torch, options.dtype))

    def progress(to_do: Iterable[Any]) -> Iterator[Any]:
        listed = list(to_do)
        return count(listed, len(listed), "encoding", "recordings", tqdm.write)

    made_by = {"codec": codec.identity, "codebooks": codec.num_codebooks, "dtype": options.dtype}
    done = encode_codec(
        rows, codec, output, made_by, options.overwrite, shard is not None, progress=progress, say=tqdm.write
    )
    print(f"{output}: {done} of {len(rows)} recordings, {codec.frame_rate:g} tokens per second")


if __name__ == "__main__":
    run_command(main)
