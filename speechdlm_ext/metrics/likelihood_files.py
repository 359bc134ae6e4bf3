"""Files of log-likelihoods: lines of ``key log-likelihood``, as the ZeroSpeech challenges read them.

What has no units has no likelihood: its line is ``key nan # reason``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from speechdlm_ext.errors import InputError
from speechdlm_ext.manifest import atomic_write


class Likelihood(NamedTuple):
    """What a line of a file of scores says.

    Attributes:
        key: the sequence's id.
        value: its log-likelihood in nats, of all or of a unit; NaN where there is none.
        reason: why there is none.
    """

    key: str
    value: float
    reason: str = ""


def write_likelihoods(path: str | os.PathLike[str], scores: Sequence[Likelihood]) -> None:
    """Write a file of scores, whole or not at all."""
    with atomic_write(path) as file:
        for score in scores:
            reason = f" # {score.reason}" if score.reason else ""
            file.write(f"{score.key} {score.value:.6f}{reason}\n")


def read_likelihoods(path: str | os.PathLike[str]) -> dict[str, Likelihood]:
    """Read a file of scores, by key.

    Raises:
        InputError: the file is missing, a line is not ``key number``, or a key is there twice.
    """
    scores: dict[str, Likelihood] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; lines of 'key log-likelihood' are wanted") from None
    for number, line in enumerate(lines, 1):
        words, _, reason = line.partition("#")
        key, *values = words.split() or [""]
        try:
            (value,) = map(float, values)
        except ValueError:
            if not line.strip():
                continue
            raise InputError(f"{path}, line {number}: {line[:60]!r}, 'key log-likelihood' is wanted") from None
        if key in scores:
            raise InputError(f"{path}, line {number}: {key} is there twice")
        scores[key] = Likelihood(key, value, reason.strip())
    if not scores:
        raise InputError(f"{path} has no scores in it")
    return scores
