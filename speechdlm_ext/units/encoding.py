"""Recordings to units: read ahead, encoded alone or in batches of like length, quantized, and written to a unit file.

The work can be stopped anywhere and started again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from speechdlm_ext.encoders.base import Encoder
from speechdlm_ext.encoders.batches import FeaturePart, explain, feature_parts
from speechdlm_ext.encoders.pretrained import default_batch_seconds
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.manifest import Chosen, JsonlRows, errors_path, read_jsonl, write_jsonl
from speechdlm_ext.io.read_ahead import ahead
from speechdlm_ext.io.recordings import audio_paths, left_to_do, recording_stamp, stamp
from speechdlm_ext.io.resume_log import ResumeLog, remove_finished_log
from speechdlm_ext.units.codebook import Codebook, Quantizer, add_codes
from speechdlm_ext.units.files import DURATIONS, channel_names, format_units, write_unit_file
from speechdlm_ext.units.quantizer import DPDPQuantizer


@dataclass(frozen=True)
class Encoded:
    """What became of one recording.

    Attributes:
        row: of the manifest.
        units: of each channel (T,), int64; (number of runs,) when deduplicated. None where it could not be encoded.
        durations: frames of each run, of each channel, when deduplicated.
        error: why it could not be encoded, in one line.
        seconds: length of the sound as it was encoded.
        frames: of each channel.
        levels: active level of each channel in dB re full scale, where they were asked for.
    """

    row: Mapping[str, Any]
    units: list[torch.Tensor] | None = None
    durations: list[torch.Tensor] | None = None
    error: str | None = None
    seconds: float = 0.0
    frames: int = 0
    levels: list[float] = field(default_factory=list)


def encode_rows(
    rows: Iterable[Mapping[str, Any]],
    encoder: Encoder,
    quantizer: Quantizer,
    *,
    deduplicate: bool = False,
    batch_seconds: float | None = None,
    workers: int = 2,
    levels: bool = False,
) -> Generator[Encoded, None, None]:
    """The units of recordings, each as soon as it is done.

    Threads read and resample what comes next. On a CPU the encoder begins with a recording, or batch, when the units of
    the one before have been taken, so that whoever keeps them loses no more than the one in hand, whatever happens;
    quantizing beside the encoder would gain nothing, as both use all cores. On a GPU features are quantized there, by
    the thread that encodes, which is at most one batch ahead of the one whose units are fetched: one copy a batch.

    Args:
        rows: of a manifest.
        encoder: what makes features, on its device.
        quantizer: features to units: a codebook, or a duration-penalized quantizer.
        deduplicate: give runs of units and their durations instead of one unit per frame.
        batch_seconds: channels of several recordings are encoded together up to this many seconds in all, padding
            included, which is less than 10 %; half of it where that does not fit into memory. 0: each recording alone,
            block by block; its units then do not depend on what else is encoded, to the last bit. None: 0 on a CPU,
            480 on a GPU.
        workers: threads that read.
        levels: measure the active level of each channel, too.

    Yields:
        One :class:`Encoded` for each row; in the order of ``rows`` when each is alone, otherwise the longest first
        within each 10,000. A recording that cannot be read or encoded has an ``error``. Close the iterator when it is
        not used up.
    """
    on_gpu = encoder.device.type != "cpu"
    if batch_seconds is None:
        batch_seconds = default_batch_seconds(encoder.device) if on_gpu else 0.0
    coded = _coded(feature_parts(rows, encoder, batch_seconds, workers, levels), quantizer, on_gpu)
    with closing(ahead(coded) if on_gpu else coded) as batches:
        unfinished: _Recording | None = None
        for parts, lengths, codes in batches:
            recordings = [unfinished or _Recording(part.row) for part in parts]
            channels = [recording.take(part, quantizer) for recording, part in zip(recordings, parts, strict=True)]
            add_codes([one for some in channels for one in some], lengths, codes)
            for recording, part in zip(recordings, parts, strict=True):
                if part.last:
                    yield recording.finish(deduplicate)
            unfinished = None if parts[-1].last else recordings[-1]


Coded = tuple[list[FeaturePart], list[int], Iterable[torch.Tensor]]


def _coded(
    batches: Generator[list[FeaturePart], None, None], quantizer: Quantizer, at_once: bool
) -> Generator[Coded, None, None]:
    """The parts, the frames of each of their channels, and the codes of these frames; on a GPU these are under way."""
    with closing(batches):
        for parts in batches:
            features = [channel for part in parts for channel in part.features]
            codes: Iterable[torch.Tensor] = quantizer.codes(features) if features else []
            for part in parts:
                part.features = [torch.empty(0)] * len(part.features)  # the codes have what is needed
            yield parts, [len(channel) for channel in features], list(codes) if at_once else codes


class _Recording:
    """The units of one recording from its parts."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row
        self._channels: list[_Channel] = []
        self._last = FeaturePart(row)

    def take(self, part: FeaturePart, quantizer: Quantizer) -> list[_Channel]:
        """The channels, for the codes of the next part."""
        self._last = part
        if not self._channels:
            self._channels = [_Channel(quantizer) for _ in part.features]
        return self._channels[: len(part.features)]

    def finish(self, deduplicate: bool) -> Encoded:
        """What became of it."""
        error = self._last.error
        if error is None:
            error = next((explain(self._row, channel.error) for channel in self._channels if channel.error), None)
        if error is not None:
            return Encoded(self._row, error=error)
        units, durations = [channel.search.units() for channel in self._channels], None
        frames = len(units[0])
        if deduplicate:
            units, durations = map(list, zip(*map(runs, units), strict=True))
        return Encoded(self._row, units, durations, None, self._last.seconds, frames, self._last.levels)


class _Channel:
    """The search for the units of one channel, or why it has none."""

    def __init__(self, quantizer: Quantizer) -> None:
        self.search, self.error = quantizer.search(), ""

    def add(self, codes: torch.Tensor) -> None:
        """Take in the codes of the next frames."""
        try:
            if not self.error:
                self.search.add(codes)
        except InputError as error:
            self.error = one_line(error)

    def units(self) -> torch.Tensor:
        """The units so far."""
        return self.search.units()


def runs(units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Units (T,) without their repetitions, and the length of each run in frames; both (number of runs,), int64."""
    labels, lengths = torch.unique_consecutive(units, return_counts=True)
    return labels, lengths


Progress = Callable[[Iterable[Encoded], float], Iterable[Encoded]]


def encode_recordings(
    rows: Sequence[Mapping[str, Any]],
    codebook: Codebook,
    output: str | os.PathLike[str],
    overwrite: bool = False,
    progress: Progress = lambda items, seconds: items,
    say: Callable[[str], object] = print,
    *,
    encoder: Encoder | None = None,
    quantizer: DPDPQuantizer | None = None,
    deduplicate: bool = False,
    batch_seconds: float | None = None,
    workers: int = 2,
    settings: Mapping[str, Any] | None = None,
    may_be_empty: bool = False,
) -> Sequence[dict[str, Any]]:
    """Encode every recording of a manifest into one unit file.

    Results are kept in ``OUTPUT.partial`` as they come; the unit file appears when all are there, in the order of the
    manifest, and is the same whether or not the work was interrupted. A recording that cannot be encoded costs a line
    in ``OUTPUT.errors``.

    Args:
        rows: of a manifest.
        codebook: what to encode with.
        output: the unit file.
        overwrite: replace a unit file that was made from other recordings or in another way.
        progress: wraps what is done, and is told the length of what is still to do, in seconds.
        say: called with lines of text for the user.
        encoder: that the codebook belongs to; built by the codebook's word if not given.
        quantizer: for units other than each frame's nearest centroid.
        deduplicate: write runs of units and their durations.
        batch_seconds, workers: as for :func:`encode_rows`.
        settings: what else the units depend on, which every row then says; results of others are not mixed in.
        may_be_empty: write a file without rows where no recording could be encoded, as for one shard of several.

    Returns:
        The rows of the unit file, which are read from it when they are asked for.

    Raises:
        InputError: the unit file is there and is another one, another run is at work on it, or no recording could be
            encoded.
    """
    output = Path(output)
    facts = {**unit_facts(codebook, quantizer), **(settings or {})}
    if output.exists() and not overwrite:
        return _existing(rows, facts, deduplicate, output, say)
    encoder = encoder or codebook.build_encoder()
    made_by = {**facts, **({"deduplicate": True} if deduplicate else {})}
    made_by.pop("frame_rate")
    with ResumeLog(output.with_name(output.name + ".partial"), made_by) as journal:
        if journal.dropped:
            say(f"{journal.path}: made with another codebook or other settings, starting over")
        known: Mapping[str, Any] = journal.entries or {}

        def is_done(row: Mapping[str, Any]) -> bool:
            entry = known.get(row["id"])
            return entry is not None and entry.get("source") == recording_stamp(row)

        places, seconds = left_to_do(rows, range(len(rows)), is_done)
        to_do = Chosen(rows, places)
        if len(to_do) < len(rows):
            say(f"{len(rows) - len(to_do)} of {len(rows)} recordings are done already")
        failed: dict[str, str] = {}
        sources: dict[str, Any] = {}  # of what is being encoded, as it was when it was begun

        def begun() -> Iterator[Mapping[str, Any]]:
            for row in to_do:
                sources[row["id"]] = recording_stamp(row)
                yield row

        encoded = encode_rows(
            begun(),
            encoder,
            quantizer or codebook,
            deduplicate=deduplicate,
            batch_seconds=batch_seconds,
            workers=workers,
        )
        with closing(encoded):
            for result in progress(encoded, seconds):
                name = result.row["id"]
                source = sources.pop(name)
                if result.error is not None:
                    failed[name] = result.error
                    say(f"skipped: {result.error}")
                else:
                    journal.add(name, {"source": source, "row": unit_row(result, facts)})
        _write_errors(output, rows, failed)
        if len(failed) == len(rows) and not may_be_empty:
            raise InputError(
                f"none of {len(rows)} recordings could be encoded; the first: {next(iter(failed.values()))}"
            )
        write_unit_file(output, (journal.entries[row["id"]]["row"] for row in rows if row["id"] not in failed))
        journal.remove()
    return JsonlRows(output)


def unit_facts(codebook: Codebook, quantizer: DPDPQuantizer | None = None) -> dict[str, Any]:
    """What each row of a unit file says of how it was made: frame rate, codebook, penalty and neighbours if any."""
    facts: dict[str, Any] = {"frame_rate": codebook.frame_rate, "codebook": codebook.fingerprint}
    if quantizer is not None and quantizer.duration_penalty > 0:
        facts["duration_penalty"] = quantizer.duration_penalty
        if quantizer.num_neighbors is not None:
            facts["num_neighbors"] = quantizer.num_neighbors
    return facts


def unit_row(encoded: Encoded, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a unit file for a recording that could be encoded.

    Returns:
        ``{"audio": id, "unitA": "7 376 …", "unitB": …}`` with ``facts``; ``"deduplicated"``, true or false, with
        ``"unitA.durations": "3 1 …"`` where it is; and ``copy_of`` and ``speed`` of a row that
        :func:`speechdlm_ext.io.speeds.with_speeds` made.
    """
    assert encoded.units is not None
    row: dict[str, Any] = {"audio": encoded.row["id"]}
    for number, name in enumerate(channel_names(len(encoded.units))):
        row[name] = format_units(encoded.units[number].tolist())
        if encoded.durations is not None:
            row[name + DURATIONS] = format_units(encoded.durations[number].tolist())
    row["deduplicated"] = encoded.durations is not None
    return {**row, **facts, **{name: encoded.row[name] for name in ("copy_of", "speed") if name in encoded.row}}


def _existing(
    rows: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    deduplicate: bool,
    output: Path,
    say: Callable[[str], object],
) -> Sequence[dict[str, Any]]:
    """The rows of a unit file that exists already, if it is what encoding would give."""
    results = JsonlRows(output)
    if any(result.get("codebook") != facts["codebook"] for result in results):
        raise InputError(f"{output} exists already, made with another codebook: pass --overwrite to replace it")
    for name in ("duration_penalty", "num_neighbors", "dtype"):
        if any(result.get(name) != facts.get(name) for result in results):
            raise InputError(f"{output} exists already, made with another {name}: pass --overwrite to replace it")
    if any(("unitA" + DURATIONS in result) != deduplicate for result in results):
        what = "not deduplicated" if deduplicate else "deduplicated"
        raise InputError(f"{output} exists already, {what}: pass --overwrite to replace it")
    errors_file = errors_path(output)
    failed = {error["id"] for error in read_jsonl(errors_file)} if errors_file.exists() else set()
    expected = (row["id"] for row in rows if row["id"] not in failed)
    if any(name != (result or {}).get("audio") for name, result in zip_longest(expected, results)):
        raise InputError(f"{output} exists already, with other recordings: pass --overwrite to replace it")
    made = output.stat().st_mtime_ns
    changed = [audio_paths(row)[0] for row in rows if any(stamp(path)[-1:] > [made] for path in audio_paths(row))]
    if changed:
        raise InputError(
            f"{output} exists already, and {len(changed)} of its {len(rows)} recordings have changed since, such as "
            f"{changed[0]}: pass --overwrite to encode them again"
        )
    remove_finished_log(output.with_name(output.name + ".partial"))
    say(f"{output} is complete already" + (f", without {len(failed)} that {errors_file} names" if failed else ""))
    return results


def _write_errors(output: Path, rows: Iterable[Mapping[str, Any]], reasons: Mapping[str, str]) -> None:
    if reasons:
        kept = ("id", "audio_filepath", "copy_of", "speed")
        failed = (row for row in rows if row["id"] in reasons)
        written = ({key: row[key] for key in kept if key in row} | {"error": reasons[row["id"]]} for row in failed)
        write_jsonl(errors_path(output), written)
    else:
        errors_path(output).unlink(missing_ok=True)
