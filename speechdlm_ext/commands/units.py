"""Options of the commands that turn sound into units: encoder, codebook, duration penalty, batches."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechdlm_ext.commands.old_names import add_renamed
from speechdlm_ext.encoders.base import ENCODERS
from speechdlm_ext.errors import InputError

if TYPE_CHECKING:  # torch is imported where it is needed, so that a command's --help does not wait for it
    from speechdlm_ext.encoders.base import Encoder
    from speechdlm_ext.units.pipeline import UnitPipeline

DTYPES = ("float32", "bfloat16", "float16")


def add_encoder_options(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """``--encoder`` and what belongs to it, read by :func:`encoder_options` and :func:`build_placed_encoder`."""
    usual = "the codebook's" if default is None else default
    group = parser.add_argument_group("encoder")
    known = "; ".join(f"{name}: {encoder.help}" for name, encoder in ENCODERS.items())
    group.add_argument("--encoder", default=default, metavar="NAME", help=f"{known} (default: {usual})")
    add_renamed(group, "--encoder-checkpoint", "--checkpoint", metavar="FILE", help="its weights, or a published name")
    group.add_argument("--layer", type=int, help="of the encoder, counted from 1")
    group.add_argument(
        "--encoder-options",
        default="{}",
        metavar="JSON",
        help='further ones (docs/encoders.md), such as {"n_mels": 40} or {"chunk_seconds": 30}',
    )
    group.add_argument("--device", help="cpu, cuda or cuda:1 (default: cuda where there is one)")
    group.add_argument("--dtype", choices=DTYPES, default="float32", help="of the encoder (default: %(default)s)")


def add_unit_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """``--codebook`` and what belongs to it, and the encoder's options, read by :func:`load_pipeline`.

    Args:
        parser: of the command.
        required: whether ``--codebook`` must be given; a preset may name it.
    """
    parser.add_argument(
        "--codebook",
        type=Path,
        required=required,
        help="of data_prep/train_codebook.py, or a published file or its name, which do not name their encoder",
    )
    parser.add_argument(
        "--duration-penalty",
        metavar="PENALTY",
        default="0",
        help="cost of a change of unit, in squared distance, or the name of a published pair with its codebook's size, "
        "k500-l4500 (default: 0, the nearest centroid)",
    )
    parser.add_argument(
        "--num-neighbors",
        type=int,
        metavar="N",
        help="use only the N nearest codes of each frame (default: all; of a published pair, 5 %% of the codes)",
    )
    parser.add_argument(
        "--batch-seconds",
        type=float,
        help="encode recordings of like length together, up to this many seconds of a channel, less than 10 %% of it "
        "padding; 0: each alone, to the same bits whatever else is encoded (default: 0 on a CPU, 480 on a GPU)",
    )
    add_encoder_options(parser)


def add_worker_option(parser: argparse.ArgumentParser) -> None:
    """``--num-workers``, of commands that read recordings."""
    add_renamed(
        parser, "--num-workers", "--workers", type=_positive, default=2,
        help="threads that read ahead (default: %(default)s)",
    )  # fmt: skip


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: 1 or more is expected")
    return int(text)


def encoder_options(options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of the encoder from the command line.

    Raises:
        InputError: ``--encoder-options`` is not a JSON object.
    """
    try:
        named = json.loads(options.encoder_options)
    except ValueError:
        raise InputError(f"--encoder-options {options.encoder_options}: not JSON") from None
    if not isinstance(named, dict):
        raise InputError(f'--encoder-options {options.encoder_options}: an object is expected, {{"name": value}}')
    given = {"checkpoint": options.encoder_checkpoint, "layer": options.layer}
    return named | {name: value for name, value in given.items() if value is not None}


def build_placed_encoder(options: argparse.Namespace) -> Encoder:
    """The encoder of the command line, on its device; raises InputError as :func:`build_encoder` does."""
    from speechdlm_ext.encoders.base import build_encoder
    from speechdlm_ext.units.pipeline import place_encoder

    return place_encoder(build_encoder(options.encoder, encoder_options(options)), options.device, options.dtype)


def load_pipeline(options: argparse.Namespace) -> UnitPipeline:
    """What :func:`add_unit_options` was given, loaded; raises InputError as :meth:`.UnitPipeline.load` does."""
    if options.codebook is None:
        raise InputError("--codebook FILE is needed, or a --preset that names one")
    if options.batch_seconds is not None and not options.batch_seconds >= 0:
        raise InputError(f"--batch-seconds {options.batch_seconds:g}: 0 or more is expected")
    from speechdlm_ext.units.pipeline import UnitPipeline

    return UnitPipeline.load(
        options.codebook,
        options.encoder,
        encoder_options(options),
        options.duration_penalty,
        options.num_neighbors,
        options.device,
        options.dtype,
    )
