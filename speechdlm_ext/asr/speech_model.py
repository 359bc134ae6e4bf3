"""A recogniser's or classifier's network with its tokenizer."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speechdlm_ext.asr.text_tokenizer import NORMALISATIONS, CharacterTokenizer, PieceTokenizer, TextTokenizer
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.conv_speech import TEXT, ConvSpeech
from speechdlm_ext.modules.conv_speech_files import load_network


class SpeechModel(NamedTuple):
    """A network and the meaning of its outputs.

    Attributes:
        network: in evaluation mode, on the CPU.
        symbols: of its outputs, in order, the blank not among them; characters have ``|`` for the space.
        tokenizer: of its texts; None for classifiers.
        path: the file that it was read from.
    """

    network: ConvSpeech
    symbols: tuple[str, ...]
    tokenizer: TextTokenizer | None
    path: Path


def load_speech_model(path_or_name: str | os.PathLike[str], *targets: str) -> SpeechModel:
    """Read a model that predicts one of ``targets`` (default: any), with its tokenizer; see :func:`load_network`.

    Raises:
        InputError: as :func:`load_network`, or it predicts something else, or the tokenizer is damaged or another's.
    """
    loaded = load_network(path_or_name)
    if targets:
        loaded.expect(*targets)
    symbols, tokenizer = vocabulary_of(loaded.vocabulary, str(loaded.path))
    return SpeechModel(loaded.network, symbols, tokenizer, loaded.path)


def describe(target: str, symbols: Sequence[str], tokenizer: TextTokenizer | None) -> dict[str, Any]:
    """The vocabulary in plain values, as checkpoints keep it."""
    about: dict[str, Any] = {"target": target, "symbols": list(symbols)}
    if tokenizer is not None:
        about["normalisation"] = tokenizer.normalisation
        if isinstance(tokenizer, PieceTokenizer):
            about["tokenizer"] = base64.b64encode(tokenizer.model).decode()
    return about


def vocabulary_of(about: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], TextTokenizer | None]:
    """Symbols and tokenizer of what :func:`describe` gave; raises :class:`InputError` where they do not fit."""
    symbols = tuple(map(str, about.get("symbols") or ()))
    if about.get("target") != TEXT:
        return symbols, None
    normalisation = str(about.get("normalisation", "none"))
    if normalisation not in NORMALISATIONS:
        raise InputError(f"{where}: normalisation {normalisation!r} is unknown")
    tokenizer: TextTokenizer
    if about.get("tokenizer"):
        tokenizer = PieceTokenizer(base64.b64decode(str(about["tokenizer"])), normalisation, f"{where}: tokenizer")
    else:
        tokenizer = CharacterTokenizer(symbols, normalisation)
    if tokenizer.symbols != symbols:
        raise InputError(
            f"{where}: the tokenizer has {len(tokenizer.symbols)} symbols, the model {len(symbols)} others"
        )
    return symbols, tokenizer
