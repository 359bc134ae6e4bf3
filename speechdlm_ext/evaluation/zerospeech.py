"""Tests of spoken language models in which one of two utterances should be more probable: layouts, and accuracies.

- sWUGGY (lexical: words against non-words) and sBLIMP (syntactic: sentences against ungrammatical ones), in the layout
  of the ZeroSpeech challenge 2021 (Nguyen et al. 2020): a folder with ``gold.csv``, whose columns ``id``, ``filename``,
  ``voice`` and ``correct`` are read, and ``type`` where there is one; or the challenge's folder, with ``lexical/dev``
  and ``syntactic/dev`` in it.
- Topic StoryCloze (Hassid et al. 2023): a folder of files ``<id>_<prefix>_correct.*`` and
  ``<id>_<prefix>_incorrect.*``.
"""

from __future__ import annotations

import csv
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.likelihoods import Likelihood
from speechdlm_ext.io.readers import SUFFIXES
from speechdlm_ext.metrics.bootstrap import BootstrapOptions
from speechdlm_ext.metrics.zerospeech import Pair, accuracy

GOLD = "gold.csv"
COLUMNS = ("id", "filename", "correct")
STORY = "story-cloze"


@dataclass(frozen=True)
class LikelihoodTest:
    """A test: its name, where it is, and its pairs."""

    name: str
    path: Path
    pairs: list[Pair]


def read_tests(folder: str | os.PathLike[str]) -> list[LikelihoodTest]:
    """The tests in a folder: one, or those of the whole challenge.

    Raises:
        InputError: there is none, or one is malformed; the message names file and line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of a test")
    golds = [folder / GOLD] if (folder / GOLD).is_file() else sorted(folder.glob(f"*/{GOLD}"))
    golds = golds or sorted(folder.glob(f"*/*/{GOLD}"))
    if golds:
        return [_read_gold(path, folder) for path in golds]
    pairs = _story_pairs(folder)
    if not pairs:
        raise InputError(
            f"{folder}: neither {GOLD} (of sWUGGY or sBLIMP, here or in folders below) nor files "
            "<id>_<prefix>_correct.* and <id>_<prefix>_incorrect.* (of topic StoryCloze)"
        )
    return [LikelihoodTest(STORY, folder, pairs)]


def measure_accuracy(
    test: LikelihoodTest, scores: Mapping[str, Likelihood], bootstrap: BootstrapOptions | None = None
) -> dict[str, Any]:
    """Judge scores by a test.

    Args:
        test: whose pairs are compared.
        scores: by key; keys may have folders and suffixes that the test's names do not have.
        bootstrap: of the intervals.

    Returns:
        The figures of :func:`speechdlm_ext.metrics.zerospeech.accuracy`; ``missing``: utterances of the test without a
        line in the scores; ``without_likelihood``: those whose line says nan, with the reason; ``skipped``: pairs that
        could not be compared for either.

    Raises:
        InputError: two keys have the same name, or no pair of the test has scores.
    """
    values: dict[str, Likelihood] = {}
    for key, score in scores.items():
        name = stem(key)
        if name in values:
            raise InputError(f"the scores of {values[name].key} and {key}: both are named {name}, remove one of them")
        values[name] = score
    names = sorted({name for pair in test.pairs for name in (pair.right, pair.wrong)})
    missing = [name for name in names if name not in values]
    without = {
        name: values[name].reason or "nan" for name in names if name in values and math.isnan(values[name].value)
    }
    unknown = {*missing, *without}
    pairs = [pair for pair in test.pairs if pair.right not in unknown and pair.wrong not in unknown]
    if not pairs:
        raise InputError(
            f"{test.path}: none of its {len(test.pairs)} pairs has scores, as of {test.pairs[0].right}: are they of "
            "another test?"
        )
    figures = accuracy(pairs, {name: score.value for name, score in values.items()}, bootstrap)
    skipped = len(test.pairs) - len(pairs)
    return {**figures, "missing": missing, "without_likelihood": without, "skipped": skipped}


def stem(name: str) -> str:
    """A name without folders and without the suffix of audio or of units."""
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    head, _, suffix = base.rpartition(".")
    return head if head and f".{suffix.lower()}" in (*SUFFIXES, ".pt", ".npy", ".txt") else base


def _read_gold(path: Path, folder: Path) -> LikelihoodTest:
    sides: dict[tuple[str, str], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    groups: dict[str, str] = {}
    seen: set[str] = set()
    header: Sequence[str] = ()
    for line, row in _rows(path):
        header = list(row)
        name = stem(row["filename"])
        if row["correct"] not in ("0", "1"):
            raise InputError(f"{path}, line {line}: correct is {row['correct']!r}, expected 0 or 1")
        if not name or name in seen:
            raise InputError(f"{path}, line {line}: filename {name!r} {'occurs twice' if name else 'is missing'}")
        seen.add(name)
        sides[row["id"], row.get("voice") or ""][row["correct"] == "0"].append(name)
        groups[row["id"]] = row.get("type") or ""
    if not sides:
        raise InputError(f"{path}: no rows in it")
    pairs = []
    for (item, voice), (right, wrong) in sides.items():
        if not right or not wrong:
            said = f", voice {voice}" if voice else ""
            side = "correct" if right else "wrong"
            raise InputError(
                f"{path}: id {item}{said} has only {side} utterances: there is nothing to compare them with"
            )
        pairs += [Pair(item, one, other, groups[item]) for one in right for other in wrong]
    kind = "lexical" if "word" in header or "phones" in header else "syntactic"
    parts = path.parent.relative_to(folder).parts
    return LikelihoodTest("/".join(parts) or kind, path, pairs)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a table with a header, and the lines that they are on."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # spreadsheets begin with a mark
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
            if missing:
                found = ", ".join(reader.fieldnames or []) or "nothing"
                raise InputError(f"{path}: column {missing[0]} is missing, found {found[:200]}")
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"{path}, line {reader.line_num}: {len(reader.fieldnames or [])} fields are expected"
                    )
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path}: not a table of text with commas (UTF-8)") from None


def _story_pairs(folder: Path) -> list[Pair]:
    """Files whose names end in ``_correct`` and ``_incorrect``, paired by what is before."""
    sides: dict[str, dict[str, str]] = defaultdict(dict)
    for path in sorted(folder.rglob("*")):
        before, _, side = stem(path.name).rpartition("_")
        if before and side in ("correct", "incorrect") and path.is_file():
            if side in sides[before]:
                raise InputError(f"{folder}: {before}_{side} occurs twice")
            sides[before][side] = f"{before}_{side}"
    for found in sides.values():
        if len(found) < 2:
            raise InputError(f"{folder}: {next(iter(found.values()))} has no counterpart")
    return [Pair(before.split("_")[0], both["correct"], both["incorrect"]) for before, both in sides.items()]
