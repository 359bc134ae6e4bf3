"""Options that the commands which run a trained model have in common: which model, how to search, on what machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechdlm_ext.generation.filters import FILTERS, OFF

if TYPE_CHECKING:  # torch is imported where it is needed, so that a command's --help does not wait for it
    import torch


def add_search_options(parser: argparse.ArgumentParser, beam: int) -> argparse._ArgumentGroup:
    """The options of :class:`.DecodingOptions` but the lengths, read by :func:`search_options`; ``beam`` by default."""
    search = parser.add_argument_group("search")
    search.add_argument(
        "--sampling", nargs="?", const="True", default="True", choices=("True", "False"), help="sample at random"
    )
    search.add_argument("--beam-search", action="store_true", help="the same as --sampling False")
    search.add_argument(
        "--beam-size", "--beam", type=int, default=beam, help="hypotheses, of which the most probable is kept"
    )
    for own in FILTERS:
        search.add_argument(own.flag, type=own.kind, default=own.kind(OFF), help=own.help)
    search.add_argument("--temperature", type=float, default=1.0, help="divides the logits")
    search.add_argument(
        "--duration-temperature", "--dur-temperature", type=float, default=1.0, help="divides durations"
    )
    search.add_argument(
        "--compile",
        action="store_true",
        help="compile the decoding step first (torch.compile), which takes a minute and pays where much is sampled",
    )
    return search


def search_options(args: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_search_options` was given, by the names of :class:`.DecodingOptions`."""
    return {
        "beam": args.beam_size,
        "sampling": args.sampling == "True" and not args.beam_search,
        **{own.option: getattr(args, own.option) for own in FILTERS},
        "temperature": args.temperature,
        "duration_temperature": args.duration_temperature,
        "compile": args.compile,
    }


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--checkpoint`` and ``--data``, of models of either kind."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="of fairseq-train, or as published, or a folder of save_pretrained or of AMELA, or a published model's "
        "name; several files, separated by colons, make an ensemble",
    )
    parser.add_argument("--data", default=".", help="a SpeechDLM's folder with dict.<channel>.txt, if not beside it")


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """``--device`` and ``--dtype``."""
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", help="cpu, cuda, cuda:1, … (default: cuda where there is one)")
    machine.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="precision")


def made_by(files: Iterable[Path], device: torch.device, dtype: str) -> dict[str, Any]:
    """What results depend on beside their input: the checkpoint's files, the precision, the kind of device."""
    return {
        "checkpoints": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files],
        "dtype": dtype,
        "device": device.type,
    }
