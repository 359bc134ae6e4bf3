"""Which encoder, codebook and quantizer a command is to use: the options, and what they come to."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechdlm_ext.errors import InputError

if TYPE_CHECKING:  # torch is imported where it is needed, so that a command's --help does not wait for it
    from speechdlm_ext.encoders.base import Encoder
    from speechdlm_ext.units.codebook import Codebook
    from speechdlm_ext.units.quantizer import DPDPQuantizer

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class UnitChoice:
    """What turns sound into units.

    Attributes:
        codebook: with the facts of the encoder.
        encoder: on its device.
        quantizer: None for the nearest centroid.
        settings: what the units depend on beside these.
    """

    codebook: Codebook
    encoder: Encoder
    quantizer: DPDPQuantizer | None
    settings: dict[str, Any]


def add_encoder_options(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """``--encoder`` and what belongs to it, read by :func:`encoder_options` and :func:`place_encoder`."""
    usual = "the codebook's" if default is None else default
    parser.add_argument("--encoder", default=default, help=f"logmel, hubert or wavlm (default: {usual})")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights of the encoder")
    parser.add_argument("--layer", type=int, help="of the encoder, counted from 1")
    parser.add_argument("--encoder-options", default="{}", metavar="JSON", help='further ones, such as {"n_mels": 40}')
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: cuda where there is one)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the encoder (default: %(default)s)")


def add_unit_options(parser: argparse.ArgumentParser) -> None:
    """``--codebook`` and what belongs to it, and the encoder's options, read by :func:`choose_units`."""
    parser.add_argument(
        "--codebook",
        type=Path,
        required=True,
        help="of data_prep/train_codebook.py, or a published one, which does not name its encoder",
    )
    add_encoder_options(parser)
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
        raise InputError(f'--encoder-options {options.encoder_options}: an object is wanted, {{"name": value}}')
    for name in ("checkpoint", "layer"):
        if getattr(options, name) is not None:
            named[name] = getattr(options, name)
    return named


def place_encoder(encoder: Encoder, options: argparse.Namespace) -> Encoder:
    """The encoder on the device and in the precision of the command line.

    Raises:
        InputError: there is no such device.
    """
    import torch

    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name}: cpu, cuda or cuda:1 is wanted") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {name}: PyTorch finds no GPU here")
    return encoder.to(device, getattr(torch, options.dtype))


def choose_units(options: argparse.Namespace) -> UnitChoice:
    """Load what :func:`add_unit_options` names.

    Raises:
        InputError: a file is missing or wrong, or codebook, encoder and penalty do not fit each other.
    """
    from speechdlm_ext.encoders.base import build_encoder
    from speechdlm_ext.units.codebook_files import load_codebook
    from speechdlm_ext.units.quantizer import DPDPQuantizer

    codebook = load_codebook(options.codebook)
    penalty, neighbors = _penalty(options.duration_penalty, options.num_neighbors, codebook.units)
    named = encoder_options(options)
    if not codebook.encoder and options.encoder is None:
        raise InputError(f"{options.codebook} does not say which encoder it belongs to: pass --encoder")
    if options.encoder is not None and codebook.encoder not in ("", options.encoder):
        raise InputError(f"{options.codebook} is for the encoder {codebook.encoder}, not for {options.encoder}")
    if codebook.encoder:
        encoder = codebook.build_encoder(named)
    else:
        encoder = build_encoder(options.encoder, named)
        codebook = codebook.for_encoder(encoder)
    quantizer = None
    if penalty > 0 or neighbors is not None:
        quantizer = DPDPQuantizer(codebook, penalty, neighbors)
    settings = {} if options.dtype == "float32" else {"dtype": options.dtype}
    return UnitChoice(codebook, place_encoder(encoder, options), quantizer, settings)


def _penalty(text: str, neighbors: int | None, units: int) -> tuple[float, int | None]:
    """λ and neighbours from ``--duration-penalty``, a number or the name of a published pair."""
    try:
        penalty = float(text)
    except ValueError:
        pass
    else:
        if not 0 <= penalty < float("inf"):
            raise InputError(f"--duration-penalty {text}: a number from 0 up is wanted")
        return penalty, neighbors
    from speechdlm_ext.units.published_pairs import published_pair

    pair = published_pair(text, units)
    return pair.duration_penalty, pair.num_neighbors if neighbors is None else neighbors
