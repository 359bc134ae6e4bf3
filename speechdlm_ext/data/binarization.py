"""Unit files to the binarized data that fairseq trains on, all channels at once, byte by byte as fairseq writes it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from speechdlm_ext.data.binarized_files import install, target_files, write_binarized
from speechdlm_ext.data.text_chunks import Chunk, cut, equally_long, number_chunk
from speechdlm_ext.data.text_sources import Source, find_sources
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import work_folder
from speechdlm_ext.io.pool import run_in_processes
from speechdlm_ext.units.files import DURATIONS
from speechdlm_ext.units.vocabulary import Vocabulary


@dataclass
class Column:
    """One channel of one split: its chunks on disk, what is in them, and what becomes of it.

    Attributes:
        prefixes: of the files of its chunks, in order.
        lines: in each chunk.
        counts: how often each unit occurs.
        unknown: units that the dictionary lacks, and how often each occurs.
    """

    prefixes: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    unknown: dict[str, int] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Frames without the ends of lines."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Binarized:
    """What was written: columns by split and channel, and the channels' vocabularies."""

    columns: dict[tuple[str, str], Column]
    vocabularies: dict[str, Vocabulary]


def binarize(
    prefixes: Mapping[str, str],
    folder: str | os.PathLike[str],
    channels: Sequence[str] | None = None,
    srcdict: str | None = None,
    dictionary: str = "first",
    names: str = "plain",
    keep_empty_lines: bool = False,
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Binarized:
    """Write ``dict.<channel>.txt`` and ``<split>.<channel>.{bin,idx}``, all of them or none.

    Memory holds a chunk of text for each worker, and 4 bytes for each line, not the frames.

    Args:
        prefixes: for each split a unit file with a row for each dialogue, or the prefix of text files with one channel
            each, as in ``raw/train`` for ``raw/train.unitA`` and ``raw/train.unitB``.
        folder: where to write.
        channels: names of the channels; by default those that are there.
        srcdict: a dictionary file for all channels (but durations), instead of one that is made from the training data.
        dictionary: whose units make the dictionary: ``first``, the first channel's for all channels, as published;
            ``joined``, those of all channels for all of them; ``each``, its own for each channel.
        names: ``plain``, or ``fairseq`` as fairseq-preprocess leaves them (``train.unitA-None.unitA.bin``).
        keep_empty_lines: keep empty lines, which separate documents.
        workers: how many processes read.
        overwrite: replace what is there.
        progress: called with the bytes of text that are done, and how many there are.

    Raises:
        InputError: something is missing or contradicts itself, a line is not made of units, or the channels
            disagree in the number of lines or in the length of one; names file, line and both lengths.
    """
    if workers < 1:
        raise InputError(f"--num-workers {workers}: 1 or more is expected")
    sources = find_sources(prefixes, channels)
    channels = sources[0].channels
    given = Vocabulary.load(srcdict) if srcdict else None
    if given is None and "train" not in prefixes:
        raise InputError("--trainpref or --srcdict is needed: the dictionary is made from the training data")
    folder = Path(folder)
    files = target_files(folder, [source.split for source in sources], channels, names, overwrite)
    with work_folder(folder, ".binarizing") as work:
        known = frozenset(given.counts if given else ())
        chunks = [s for source in sources for s in _chunks(source, work, known, keep_empty_lines)]
        columns = _number(chunks, workers, progress)
        for source in sources:
            _check_lines(source, columns)
        vocabularies = _vocabularies(given, dictionary, channels, columns)
        for (split, channel), column in columns.items():
            vocabulary = vocabularies[channel]
            column.unknown = {unit: count for unit, count in column.counts.items() if unit not in vocabulary.ids}
            write_binarized(work / files[split, channel].name, column.prefixes, sum(column.lines), vocabulary)
        for channel in channels:
            with open(work / f"dict.{channel}.txt", "w", encoding="utf-8") as file:
                vocabularies[channel].write(file)
        install(work, folder, files, channels)
    return Binarized(columns, vocabularies)


def _chunks(source: Source, work: Path, known: frozenset[str], keep_empty_lines: bool) -> Iterator[Chunk]:
    for path, inside in source.files.items():
        spans = cut(path)
        if not spans:
            raise InputError(f"{path}: empty, a line of units for each dialogue is expected")
        for number, (start, end) in enumerate(spans):
            out = str(work / f"{source.split}.{number:06d}")
            yield Chunk(path, start, end, tuple(inside), source.rows, source.exact, out, known, keep_empty_lines)


def _number(
    chunks: Sequence[Chunk], workers: int, progress: Callable[[int, int], object]
) -> dict[tuple[str, str], Column]:
    columns: dict[tuple[str, str], Column] = {}
    total, done = sum(s.end - s.start for s in chunks), 0
    counted = run_in_processes(number_chunk, chunks, min(workers, len(chunks)), ordered=True)
    for chunk, counts in zip(chunks, counted, strict=True):
        split = Path(chunk.out).name.rsplit(".", 1)[0]
        for channel, units in counts.units.items():
            column = columns.setdefault((split, channel), Column())
            column.prefixes.append(f"{chunk.out}.{channel}")
            column.lines.append(counts.lines)
            column.counts.update(units)
        done += chunk.end - chunk.start
        progress(done, total)
    return columns


def _check_lines(source: Source, columns: Mapping[tuple[str, str], Column]) -> None:
    """Raise :class:`InputError` unless the text files of a split have the same lines of the same lengths."""
    if source.rows:
        return  # each row was checked when it was read
    paths = {channel: path for path, (channel,) in source.files.items()}
    groups = equally_long(source.channels)
    for together in groups:
        _check_files(source.split, {channel: paths[channel] for channel in together}, columns)
    _check_numbers(source.split, {channel: paths[channel] for channel, *_ in groups}, columns)


def _check_files(split: str, paths: Mapping[str, str], columns: Mapping[tuple[str, str], Column]) -> None:
    (first, first_path), *others = paths.items()
    expected = _sizes(columns[split, first])
    for channel, path in others:
        sizes = _sizes(columns[split, channel])
        both = min(len(sizes), len(expected))
        unequal = np.flatnonzero(sizes[:both] != expected[:both])
        if len(unequal):
            line = int(unequal[0])
            raise InputError(
                f"{path}, line {line + 1}: {sizes[line] - 1} frames in channel {channel}, {expected[line] - 1} in "
                f"{first} ({first_path}); {len(unequal)} line(s) differ: make each dialogue's channels equally long"
            )
    _check_numbers(split, paths, columns)


def _check_numbers(split: str, paths: Mapping[str, str], columns: Mapping[tuple[str, str], Column]) -> None:
    (first, first_path), *others = paths.items()
    expected = sum(columns[split, first].lines)
    for channel, path in others:
        lines = sum(columns[split, channel].lines)
        if lines != expected:
            raise InputError(
                f"{path}: {lines} lines in channel {channel}, {expected} in {first} ({first_path}): the "
                "channels of a dialogue must be on the same line of both files"
            )


def _sizes(column: Column) -> np.ndarray:
    """Lengths of all lines, ``</s>`` included, ``(lines,)``."""
    return np.concatenate([np.fromfile(f"{prefix}.sizes", np.int32) for prefix in column.prefixes])


def _vocabularies(
    given: Vocabulary | None, dictionary: str, channels: Sequence[str], columns: Mapping[tuple[str, str], Column]
) -> dict[str, Vocabulary]:
    timed = [channel for channel in channels if channel.endswith(DURATIONS)]
    units = [channel for channel in channels if channel not in timed]
    # Durations are no units: they have a dictionary of their own, the same for all channels. They are read as numbers,
    # so that one that occurs in validation data alone is none that a model could not know.
    found = dict.fromkeys(timed, _count(columns, [key for key in columns if key[1] in timed]))
    if given is not None:
        return found | dict.fromkeys(units, given)
    if dictionary == "each":
        return found | {channel: _count(columns, [("train", channel)]) for channel in units}
    counted = units if dictionary == "joined" else units[:1]
    return found | dict.fromkeys(units, _count(columns, [("train", channel) for channel in counted]))


def _count(columns: Mapping[tuple[str, str], Column], keys: Sequence[tuple[str, str]]) -> Vocabulary:
    """The dictionary of some columns, by split and channel."""
    counts: Counter[str] = Counter()
    for key in keys:
        counts.update(columns[key].counts)
    return Vocabulary.count(counts)
