"""A share of the frames of many recordings as features in one file, which can be stopped and started again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.journal import Journal
from speechdlm_ext.units.encoder import Encoder
from speechdlm_ext.units.level import LOWEST_LEVEL, LevelMeter
from speechdlm_ext.units.reading import ahead, read_ahead
from speechdlm_ext.units.recordings import recording_seconds, recording_size, recording_stamp


@dataclass(frozen=True)
class Drawn:
    """The frames that were drawn from one recording.

    Attributes:
        row: of the manifest.
        features: (n, D), of all channels.
        levels: active level of each channel that has sound, in dB re full scale.
        seconds: length of the sound.
        error: why there are none, in one line.
    """

    row: Mapping[str, Any]
    features: torch.Tensor
    levels: list[float]
    seconds: float = 0.0
    error: str | None = None


Progress = Callable[[Iterable[Drawn], float], Iterable[Drawn]]


def sampling_share(rows: Sequence[Mapping[str, Any]], encoder: Encoder, max_frames: int) -> float:
    """The share of the frames of each recording that comes to about ``max_frames`` in all; 1 at most."""
    return min(1.0, max_frames / max(count_frames(rows, encoder), 1))


def count_frames(rows: Sequence[Mapping[str, Any]], encoder: Encoder) -> int:
    """About how many frames all channels of the recordings have, by what the manifest says."""
    total = 0
    for row in rows:
        try:
            seconds, channels = recording_size(row)
        except (InputError, OSError):
            continue  # it will be left out
        total += encoder.frames(round(seconds * encoder.sample_rate)) * channels
    return total


def draw_features(
    rows: Sequence[tuple[int, Mapping[str, Any]]], encoder: Encoder, share: float, seed: int, workers: int = 2
) -> Generator[Drawn, None, None]:
    """Features of a random share of the frames of each recording, the same whatever else is drawn.

    Args:
        rows: of a manifest, each with its place in it.
        encoder: what makes the features.
        share: of the frames.
        seed: of the choice, with the recording's place.
        workers: threads that read ahead.
    """

    def encoded() -> Generator[Drawn, None, None]:
        with closing(read_ahead([row for _, row in rows], encoder.sample_rate, workers)) as readings:
            for (place, row), reading in zip(rows, readings, strict=True):
                meter = LevelMeter()
                draw = np.random.default_rng((seed, place))
                try:
                    chosen = _choose(encoder, meter.watch(reading), share, draw)
                except (InputError, OSError) as error:
                    yield Drawn(row, torch.zeros(0, encoder.dim), [], error=one_line(error))
                    continue
                levels = [level for level in meter.levels() if level > LOWEST_LEVEL]
                yield Drawn(row, chosen, levels, reading.samples / encoder.sample_rate)

    with closing(ahead(encoded())) as drawn:
        yield from drawn


def _choose(encoder: Encoder, blocks: Iterable[torch.Tensor], share: float, draw: np.random.Generator) -> torch.Tensor:
    chosen = [torch.zeros(0, encoder.dim)]
    for piece in encoder.stream(blocks):  # not all features of a long recording at once
        features = piece.flatten(0, 1)
        chosen.append(features[torch.from_numpy(draw.random(len(features)) < share)])
    return torch.cat(chosen)


def dump_features(
    rows: Sequence[Mapping[str, Any]],
    encoder: Encoder,
    path: str | os.PathLike[str],
    share: float,
    seed: int,
    progress: Progress = lambda items, seconds: items,
    say: Callable[[str], object] = print,
    workers: int = 2,
    dtype: str = "float32",
) -> tuple[np.ndarray, list[float]]:
    """Write what :func:`draw_features` draws into a NumPy file, recording by recording.

    ``PATH.partial`` keeps account of the recordings that are in the file; a run that was stopped goes on after the
    last of them. It stays, so that another run finds the file complete.

    Args:
        rows: of a manifest.
        encoder: what makes the features.
        path: the file, (n, D) float32.
        share: of the frames of each recording.
        seed: of the choice.
        progress: wraps what is drawn, and is told the length of what is still to do, in seconds.
        say: called with lines of text for the user.
        workers: threads that read ahead.
        dtype: of the encoder; features of others are not mixed in.

    Returns:
        The features (n, D), mapped from the file, and the active levels of all channels that have sound.

    Raises:
        InputError: no recording could be read, or another run is at work on the file.
    """
    path = Path(path)
    digest = hashlib.sha256(json.dumps([[row["id"], recording_stamp(row)] for row in rows]).encode()).hexdigest()[:16]
    settings: dict[str, Any] = {"encoder": encoder.name, "identity": encoder.identity, "dtype": dtype}
    settings |= {"share": share, "seed": seed, "rows": digest}
    with Journal(path.with_name(path.name + ".partial"), settings) as journal:
        done = _resume(path, encoder.dim, journal)
        if done:
            say(f"{done} of {len(rows)} recordings are done already")
        to_do = list(enumerate(rows))[done:]
        drawn = draw_features(to_do, encoder, share, seed, workers)
        with closing(drawn):
            _append(path, encoder.dim, journal, progress(drawn, sum(recording_seconds(row) for _, row in to_do)), say)
        entries = [journal.entries[row["id"]] for row in rows]
    if all(entry["error"] for entry in entries):
        raise InputError(f"none of {len(rows)} recordings could be read; the first: {entries[0]['error']}")
    return np.load(path, mmap_mode="r"), [level for entry in entries for level in entry["levels"]]


def _append(path: Path, dim: int, journal: Journal, drawn: Iterable[Drawn], say: Callable[[str], object]) -> None:
    from npy_append_array import NpyAppendArray

    if not path.exists():
        with NpyAppendArray(path) as file:
            file.append(np.zeros((0, dim), np.float32))
    with NpyAppendArray(path) as file:
        for item in drawn:
            if item.error is not None:
                say(f"left out: {item.error}")
            elif len(item.features):
                file.append(item.features.numpy())
            journal.add(item.row["id"], {"end": file.shape[0], "levels": item.levels, "error": item.error})


def _resume(path: Path, dim: int, journal: Journal) -> int:
    """Cut the file to the recordings that the journal knows to be whole in it; returns their number."""
    from npy_append_array import recover

    entries = list(journal.entries.values())
    end = entries[-1]["end"] if entries else 0
    try:
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            start = file.tell()
        if (path.stat().st_size - start) // (4 * dim) < end:
            raise ValueError("shorter than the journal says")
        os.truncate(path, start + end * 4 * dim)
        recover(path)
    except (OSError, ValueError):  # not there, or not what the journal speaks of
        path.unlink(missing_ok=True)
        journal.clear()
        return 0
    return len(entries)


def remove_dump(path: str | os.PathLike[str]) -> None:
    """Delete a file of :func:`dump_features` and what goes with it."""
    path = Path(path)
    for name in (path, path.with_name(path.name + ".partial")):
        name.unlink(missing_ok=True)
