"""Scoring every sequence of a unit file, so that it can be stopped and started again."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.hub.dialogues import channel_texts
from speechdlm_ext.hub.model import DialogueModel
from speechdlm_ext.hub.unit_model import UnitModel
from speechdlm_ext.io.likelihoods import Likelihood, row_keys, write_likelihoods
from speechdlm_ext.io.resume_log import ResumeLog
from speechdlm_ext.io.sharding import Shard
from speechdlm_ext.units.files import choose_channel, read_unit_file

# Units that are scored between two entries of the journal.
CHUNK = 20_000


def score_unit_file(
    model: DialogueModel | UnitModel,
    units: str | os.PathLike[str],
    output: str | os.PathLike[str],
    normalize: bool = False,
    ending: bool = False,
    channel: str | None = None,
    deduplicate: bool = False,
    batch_units: int | None = None,
    made_by: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[int], object] = lambda units: None,
    say: Callable[[str], object] = print,
    shard: Shard | None = None,
) -> list[Likelihood]:
    """Score every row of a unit file, in their order.

    Equal sequences of units have equal scores, as each is scored once. Results are kept in ``OUTPUT.partial`` as they
    come; the output appears when all are there.

    Args:
        model: of dialogues, for all channels of a row together; or of units.
        normalize: divide by what was scored (units of all channels), instead of the sum.
        ending: score the boundary after the last unit as well.
        channel: the one to score with a model of units (default: the only one in a row).
        deduplicate: make one unit of a run of equal ones, with a model of units.
        batch_units: units that go through the model together (default: 12,288, on a CPU 2,048).
        made_by: what else the results depend on (the checkpoint), to tell whether an interrupted run was the same.
        overwrite: replace an output that is there.
        progress: called with the number of units done since the last call.
        say: called with lines of text for the user.
        shard: score its rows alone, into its own file; :func:`.merge_likelihoods` joins them.

    Returns:
        What was written.

    Raises:
        InputError: the output is there already; ids that are doubled or have blanks in them; a row that the model does
            not understand.
    """
    output = Path(output) if shard is None else shard.path(output)
    if output.exists() and not overwrite:
        raise InputError(f"{output} is there already: pass --overwrite to replace it")
    if batch_units is not None and batch_units < 1:
        raise InputError(f"--batch-units {batch_units}: 1 or more is expected")
    rows = read_unit_file(units)
    keys = row_keys(rows, os.fspath(units))
    if shard is not None:
        rows, keys = list(shard.take(rows)), list(shard.take(keys))
    if isinstance(model, DialogueModel):
        if channel or deduplicate:
            raise InputError("--channel and --deduplicate are for models of one channel; this one is of dialogues")
        texts = [_dialogue(row, model, key) for row, key in zip(rows, keys, strict=True)]
    else:
        texts = [_sequence(row, channel, deduplicate, key) for row, key in zip(rows, keys, strict=True)]
    # All of them before the first is scored: hours of work should not end at a unit that nobody knows.
    different = {text: _check(model, text, key) for text, key in zip(texts, keys, strict=True) if text}
    settings = {"texts": _digest(texts), "ending": ending, "made_by": dict(made_by or {})}
    found: dict[tuple[str, ...], tuple[float, int]] = {}
    with ResumeLog(output.with_name(output.name + ".partial"), settings) as journal:
        if journal.dropped:
            say(f"{journal.path}: made with other settings, starting over")
        for number, chunk in enumerate(_chunks(different)):
            if str(number) not in journal.entries:
                journal.add(str(number), _score(model, chunk, ending, batch_units))
            found.update(zip(chunk, map(tuple, journal.entries[str(number)]), strict=True))
            progress(sum(different[text] for text in chunk))
        results = [
            Likelihood(key, found[text][0] / (found[text][1] if normalize else 1))
            if text
            else Likelihood(key, math.nan, "it has no units")
            for key, text in zip(keys, texts, strict=True)
        ]
        write_likelihoods(output, results)
        journal.remove()
    return results


def _dialogue(row: Mapping[str, Any], model: DialogueModel, key: str) -> tuple[str, ...]:
    texts = tuple(channel_texts(row, model.channels, f"row {key}"))
    return texts if any(text.split() for text in texts) else ()


def _sequence(row: Mapping[str, Any], channel: str | None, deduplicate: bool, key: str) -> tuple[str, ...]:
    """The units of one channel, as a tuple of one text; empty where there are none."""
    words = str(row[choose_channel(row, channel, f"row {key}")]).split()
    if deduplicate:
        words = [unit for unit, _ in groupby(words)]
    return (" ".join(words),) if words else ()


def _check(model: DialogueModel | UnitModel, text: tuple[str, ...], key: str) -> int:
    """How many units of a row the model takes; raises :class:`InputError` for those that it does not know."""
    if isinstance(model, DialogueModel):
        return model.encode(dict(zip(model.channels, text, strict=True)), f"row {key}").numel()
    return len(model.encode(text[0], f"row {key}"))


def _chunks(different: Mapping[tuple[str, ...], int]) -> Iterator[list[tuple[str, ...]]]:
    """Sequences in order of length, some at a time."""
    chunk: list[tuple[str, ...]] = []
    total = 0
    for text in sorted(different, key=lambda text: (different[text], text)):
        chunk.append(text)
        total += different[text]
        if total >= CHUNK:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


def _score(
    model: DialogueModel | UnitModel, texts: Sequence[tuple[str, ...]], ending: bool, batch_units: int | None
) -> list[list[float]]:
    """Of each sequence its log-likelihood, and how many units that is of."""
    if isinstance(model, DialogueModel):
        dialogues = [dict(zip(model.channels, text, strict=True)) for text in texts]
        scores = model.score(dialogues, ending=ending)
        return [[score.total, score.log_probabilities.numel()] for score in scores]
    found = model.score([text for (text,) in texts], ending=ending, batch_units=batch_units)
    assert isinstance(found, list)
    return [[score.total, len(score.log_probabilities)] for score in found]


def _digest(texts: Sequence[tuple[str, ...]]) -> str:
    digest = sha256()
    for text in texts:
        digest.update("\0".join(text).encode() + b"\n")
    return digest.hexdigest()
