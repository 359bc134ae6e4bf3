"""A unit file to a folder of wav files, one by one, so that it can be stopped and started again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.recordings import check_name
from speechdlm_ext.io.resume_log import ResumeLog, read_resume_log
from speechdlm_ext.vocoders.base import Vocoder
from speechdlm_ext.vocoders.durations import are_deduplicated, frame_units
from speechdlm_ext.vocoders.sound_files import SoundWriter, is_made


def synthesize_rows(
    rows: Sequence[Mapping[str, Any]],
    vocoder: Vocoder,
    folder: str | os.PathLike[str],
    settings: dict[str, Any] | None = None,
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
        settings: what the sound depends on beside the units, by default the vocoder's.
        overwrite: replace wav files that are there from other units or settings.
        progress: wraps the rows still to do.
        say: called with lines of text for the user.
        frame_level: whether units without durations are one per frame; by default what the rows say.

    Returns:
        The wav files, one for each row.

    Raises:
        InputError: a row is not right, two rows have the same name, or a file is there that is not from these units.
    """
    folder, settings = Path(folder), vocoder.settings if settings is None else settings
    notes: list[str] = []
    judged = are_deduplicated(rows, notes.append) if frame_level is None else [not frame_level] * len(rows)
    work = [_check(row, vocoder, folder, one) for row, one in zip(rows, judged, strict=True)]
    taken: set[str] = set()
    for row, (path, _, _) in zip(rows, work, strict=True):
        if path.name.casefold() in taken:
            raise InputError(f'two rows are named {row["audio"]}: their wav files would be one; rename "audio"')
        taken.add(path.name.casefold())
    for note in notes:
        say(note)
    if any(judged):
        which = "the units" if all(judged) else f"{sum(judged)} of {len(rows)} rows"
        say(f"{which} are deduplicated: the vocoder predicts their durations")
    account = folder / ".synthesized"
    # Before the journal is opened, which drops what it holds of other settings: a refusal costs nothing.
    made_with, known = read_resume_log(account)
    entries = known if made_with == settings else {}
    to_do = [item for item in work if not is_made(item[0], item[2], entries.get(item[0].name), overwrite)]
    with ResumeLog(account, settings) as journal:
        if len(to_do) < len(work):
            say(f"{len(work) - len(to_do)} of {len(work)} wav files exist already")
        with SoundWriter(journal, vocoder.sample_rate, say) as writer:
            for path, units, digest in progress(to_do):
                writer.write(path.name, digest, path, synthesize(vocoder, units))
    return [path for path, _, _ in work]


def synthesize(vocoder: Vocoder, units: Sequence[Sequence[int]]) -> torch.Tensor:
    """Sound (C, N) of channels of units (C, T); a channel that is shorter than another is followed by silence."""
    longest = max(map(len, units))
    padded = [[*channel, *[channel[-1]] * (longest - len(channel))] for channel in units]
    sound = vocoder.decode(torch.tensor(padded).T[None])[0]
    for channel, made in zip(units, sound, strict=True):
        made[round(len(channel) * vocoder.sample_rate / vocoder.frame_rate) :] = 0
    return sound


def _check(
    row: Mapping[str, Any], vocoder: Vocoder, folder: Path, deduplicated: bool
) -> tuple[Path, list[list[int]], str]:
    """The wav file, units (C, T) and a digest of the units of a row."""
    name = row.get("audio")
    name = check_name(name, '"audio":')
    for key, ours in (("codebook", vocoder.codebook_fingerprint), ("frame_rate", vocoder.frame_rate)):
        if ours is not None and row.get(key, ours) != ours:
            raise InputError(f"row {name} was made with {key} {row[key]}, the vocoder has {key} {ours}")
    units = frame_units(row, vocoder, deduplicated)
    return folder / f"{name}.wav", units, hashlib.sha256(repr(units).encode()).hexdigest()[:16]
