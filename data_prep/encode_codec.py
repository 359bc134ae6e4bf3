"""Add the tokens of an audio codec to the rows of a manifest, for training unit-to-codec models."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from speechdlm_ext.commands.model import add_machine_options, open_device
from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Stopped anywhere and started again, it continues after the last whole recording.",
    )
    parser.add_argument("manifest", type=Path, help="JSON lines with audio_filepath, of one channel each")
    parser.add_argument("output", type=Path, help="file to write: the rows with codec and codec_rate")
    parser.add_argument(
        "--checkpoint", required=True, help="WavTokenizer as published, or a published name (small_600_24k_4096)"
    )
    add_machine_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    import torch
    from tqdm import tqdm

    from speechdlm_ext.io.progress import count
    from speechdlm_ext.io.recordings import read_manifest
    from speechdlm_ext.vocoders.codec_tokens import encode_codec
    from speechdlm_ext.vocoders.wavtokenizer import WavTokenizer, locate_wavtokenizer

    rows = read_manifest(options.manifest)
    path = locate_wavtokenizer(options.checkpoint)
    codec = WavTokenizer.from_pretrained(path)
    codec.to(device=open_device(options.device), dtype=getattr(torch, options.dtype))

    def progress(to_do: Iterable[Any]) -> Iterator[Any]:
        listed = list(to_do)
        return count(listed, len(listed), "encoding", "recordings", tqdm.write)

    made_by = {"codec": [path.name, path.stat().st_size], "dtype": options.dtype}
    done = encode_codec(rows, codec, options.output, made_by, options.overwrite, progress, tqdm.write)
    print(f"{options.output}: {done} of {len(rows)} recordings, {codec.frame_rate:g} tokens per second")


if __name__ == "__main__":
    run_command(main)
