"""A unit file to a folder of wav files, one by one, so that it can be stopped and started again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.recordings import check_name
from speechdlm_ext.io.resume_log import ResumeLog, read_resume_log
from speechdlm_ext.vocoders.base import Utterance, UtteranceVocoder, Vocoder
from speechdlm_ext.vocoders.durations import are_deduplicated, frame_units
from speechdlm_ext.vocoders.sound_files import SoundWriter, is_made

Item = TypeVar("Item")


def synthesize_rows(
    rows: Sequence[Mapping[str, Any]],
    vocoder: Vocoder,
    folder: str | os.PathLike[str],
    overwrite: bool = False,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda items: items,
    say: Callable[[str], object] = print,
    frame_level: bool | None = None,
) -> list[Path]:
    """Write ``<audio>.wav`` for every row of a unit file, one channel of sound for each channel of units.

    What exists already from the same units and settings is kept, which ``FOLDER/.synthesized`` logs.

    Args:
        rows: of a unit file.
        vocoder: makes the sound.
        folder: where to write.
        overwrite: replace wav files that are there from other units or settings.
        progress: wraps the rows still to do.
        say: called with lines of text for the user.
        frame_level: whether units without durations are one per frame; by default what the rows say.

    Returns:
        The wav files, one for each row.

    Raises:
        InputError: a row is not right, two rows have the same name, or a file is there that is not from these units.
    """
    folder, settings = Path(folder), vocoder.settings
    notes: list[str] = []
    for number, row in enumerate(rows, 1):
        check_name(row.get("audio"), f'row {number}: "audio":')
    judged = are_deduplicated(rows, notes.append) if frame_level is None else [not frame_level] * len(rows)
    work = [
        _check(row, number, vocoder, folder, one) for number, (row, one) in enumerate(zip(rows, judged, strict=True))
    ]
    taken: set[str] = set()
    for one in work:
        if one.path.name.casefold() in taken:
            raise InputError(f'two rows are named {one.made_of.name}: their wav files would be one; rename "audio"')
        taken.add(one.path.name.casefold())
    for note in notes:
        say(note)
    if any(judged):
        which = "the units" if all(judged) else f"{sum(judged)} of {len(rows)} rows"
        say(f"{which} are deduplicated: the vocoder predicts their durations")
    account = folder / ".synthesized"
    # Before the journal is opened, which drops what it holds of other settings: a refusal costs nothing.
    made_with, known = read_resume_log(account)
    entries = known if made_with == settings else {}
    to_do = [one for one in work if not is_made(one.path, one.digest, entries.get(one.path.name), overwrite)]
    with ResumeLog(account, settings) as journal:
        if len(to_do) < len(work):
            say(f"{len(work) - len(to_do)} of {len(work)} wav files exist already")
        with SoundWriter(journal, vocoder.sample_rate, say) as writer:
            for one, sound in make_sounds(vocoder, progress(to_do), lambda one: one.made_of, say):
                writer.write(one.path.name, one.digest, one.path, sound)
    return [one.path for one in work]


def make_sounds(
    vocoder: Vocoder, items: Iterable[Item], made_of: Callable[[Item], Utterance], say: Callable[[str], object]
) -> Iterator[tuple[Item, torch.Tensor]]:
    """Each item with its sound (C, N): one by one, or several together where the vocoder makes them so."""
    if not isinstance(vocoder, UtteranceVocoder):
        yield from ((item, synthesize(vocoder, made_of(item).units)) for item in items)
        return
    waiting = iter(items)
    while batch := list(islice(waiting, vocoder.batch_size)):
        yield from zip(batch, vocoder.synthesize_batch([made_of(item) for item in batch], say), strict=True)


def synthesize(vocoder: Vocoder, units: Sequence[Sequence[int]]) -> torch.Tensor:
    """Sound (C, N) of channels of units (C, T); a channel that is shorter than another is followed by silence."""
    longest = max(map(len, units))
    padded = [[*channel, *[channel[-1]] * (longest - len(channel))] for channel in units]
    sound = vocoder.decode(torch.tensor(padded).T[None])[0]
    for channel, made in zip(units, sound, strict=True):
        made[round(len(channel) * vocoder.sample_rate / vocoder.frame_rate) :] = 0
    return sound


class _Work(NamedTuple):
    """A wav file to make, what of, and a digest of that."""

    path: Path
    made_of: Utterance
    digest: str


def _check(row: Mapping[str, Any], number: int, vocoder: Vocoder, folder: Path, deduplicated: bool) -> _Work:
    name = str(row["audio"])
    for key, ours in (("codebook", vocoder.codebook_fingerprint), ("frame_rate", vocoder.frame_rate)):
        if ours is not None and row.get(key, ours) != ours:
            raise InputError(f"row {name} was made with {key} {row[key]}, the vocoder has {key} {ours}")
    units = frame_units(row, vocoder, deduplicated)
    one = Utterance(name, (number, 0), units, not (deduplicated and isinstance(vocoder, UtteranceVocoder)), row)
    source = one[1:4] if isinstance(vocoder, UtteranceVocoder) else units
    return _Work(folder / f"{name}.wav", one, hashlib.sha256(repr(source).encode()).hexdigest()[:16])
