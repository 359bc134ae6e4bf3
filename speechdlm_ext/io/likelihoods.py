"""Files of log-likelihoods: lines of ``key log-likelihood``, as the ZeroSpeech challenges read them.

A sequence without units has no likelihood: its line is ``key nan``, as the challenge's readers accept two fields only,
and the reason is in the ``.errors`` file beside it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.manifest import errors_path, read_jsonl, write_jsonl
from speechdlm_ext.io.sharding import shard_paths


class Likelihood(NamedTuple):
    """A line of a file of scores.

    Attributes:
        key: the sequence's id.
        value: its log-likelihood in nats, in all or per unit; NaN where there is none.
        reason: why there is none.
    """

    key: str
    value: float
    reason: str = ""


def write_likelihoods(path: str | os.PathLike[str], scores: Sequence[Likelihood]) -> None:
    """Write a file of scores, whole or not at all, and the reasons of those without one."""
    reasons = [{"id": score.key, "error": score.reason} for score in scores if score.reason]
    if reasons:
        write_jsonl(errors_path(path), reasons)
    else:
        errors_path(path).unlink(missing_ok=True)
    with atomic_write(path) as file:
        file.write(_text(scores))


def _text(scores: Sequence[Likelihood]) -> str:
    return "".join(f"{score.key} {score.value:.6f}\n" for score in scores)


def read_likelihoods(path: str | os.PathLike[str]) -> dict[str, Likelihood]:
    """Read a file of scores, by key; if it does not exist, all of its shards.

    Raises:
        InputError: the file or a shard is missing, a line is not ``key number``, or a key occurs twice.
    """
    paths = [Path(path)] if os.path.exists(path) else shard_paths(path)
    if not paths:
        raise InputError(f"{path}: no such file")
    scores: dict[str, Likelihood] = {}
    for one in paths:
        _read(one, scores)
    if not scores:
        raise InputError(f"{path} has no scores in it")
    return scores


def _read(path: Path, scores: dict[str, Likelihood]) -> None:
    """Add the scores of a file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; expected lines of 'key log-likelihood'") from None
    reasons = {}
    if errors_path(path).is_file():
        reasons = {str(row.get("id")): str(row.get("error", "")) for row in read_jsonl(errors_path(path))}
    for number, line in enumerate(lines, 1):
        words, _, remark = line.partition("#")
        key, *values = words.split() or [""]
        try:
            (value,) = map(float, values)
        except ValueError:
            if not line.strip():
                continue
            raise InputError(f"{path}, line {number}: expected 'key log-likelihood', found {line[:60]!r}") from None
        if key in scores:
            raise InputError(f"{path}, line {number}: {key} occurs twice")
        scores[key] = Likelihood(key, value, reasons.get(key, "") or remark.strip())


def merge_likelihoods(
    keys: Sequence[str],
    files: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    allow_missing: bool = False,
    overwrite: bool = False,
) -> list[Likelihood]:
    """Join files of scores, in the order of ``keys``, as one run would have written them.

    Args:
        files: the name of a sharded output stands for its shards.
        allow_missing: go on without keys that have no score.

    Raises:
        InputError: as :func:`read_likelihoods`; keys are missing, or not among ``keys``; the output has other scores.
    """
    output = Path(output)
    found: dict[str, Likelihood] = {}
    for name in files:
        own = read_likelihoods(name)
        twice = next((key for key in own if key in found), None)
        if twice is not None:
            raise InputError(f"{name}: {twice} is also in another file: remove one of them")
        found.update(own)
    missing, strange = [key for key in keys if key not in found], sorted(found.keys() - set(keys))
    if strange:
        raise InputError(f"{strange[0]} has a score, but is not among the {len(keys)} rows to be scored")
    if missing and not allow_missing:
        raise InputError(
            f"{len(missing)} of {len(keys)} rows have no score ({', '.join(missing[:5])}"
            f"{', …' if len(missing) > 5 else ''}): run the shards that are missing, or pass --allow-missing"
        )
    scores = [found[key] for key in keys if key in found]
    if output.exists() and not overwrite and output.read_text(encoding="utf-8") != _text(scores):
        raise InputError(f"{output} exists with other scores: pass --overwrite to replace it")
    write_likelihoods(output, scores)
    return scores


def row_keys(rows: Sequence[Mapping[str, Any]], where: str) -> list[str]:
    """The keys under which the rows of a unit file are scored: their ids, or their numbers from 1 on.

    Raises:
        InputError: ids that occur twice or contain blanks; ``where`` names the file.
    """
    keys = [str(row.get("audio", number)) for number, row in enumerate(rows, 1)]
    for key in keys:
        if len(key.split()) != 1 or "#" in key:
            raise InputError(f"{where}: id {key!r}: files of scores cannot hold blanks and # in ids: rename it")
    if len(set(keys)) < len(keys):
        doubled = next(key for key, times in Counter(keys).items() if times > 1)
        raise InputError(f"{where}: id {doubled} occurs twice")
    return keys


def are_likelihoods(path: str | os.PathLike[str]) -> bool:
    """Whether a file, or the first shard of this name, has lines of ``key number`` rather than JSON."""
    paths = [Path(path)] if os.path.isfile(path) else shard_paths(path)
    for one in paths:
        with open(one, encoding="utf-8", errors="replace") as file:
            first = next((line for line in file if line.strip()), "")
        if first:
            return not first.lstrip().startswith("{")
    return False
