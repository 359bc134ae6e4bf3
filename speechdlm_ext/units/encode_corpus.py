"""A manifest of recordings to a unit file, in a way that can be stopped anywhere and started again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from speechdlm_ext.encoders.base import Encoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.manifest import errors_path, read_jsonl, write_jsonl
from speechdlm_ext.io.recordings import audio_paths, recording_seconds, recording_stamp, stamp
from speechdlm_ext.io.resume_log import ResumeLog
from speechdlm_ext.units.codebook import Codebook
from speechdlm_ext.units.encode_recordings import Encoded, encode_rows
from speechdlm_ext.units.files import DURATIONS, channel_names, format_units, write_unit_file
from speechdlm_ext.units.quantizer import DPDPQuantizer

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
    batch_seconds: float = 0.0,
    workers: int = 2,
    settings: Mapping[str, Any] | None = None,
    may_be_empty: bool = False,
) -> list[dict[str, Any]]:
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
        batch_seconds, workers: as :func:`speechdlm_ext.units.encode_recordings.encode_rows` has them.
        settings: what else the units depend on, which every row then says; results of others are not mixed in.
        may_be_empty: write a file without rows where no recording could be encoded, as for one shard of several.

    Returns:
        The rows of the unit file.

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
        sources = {row["id"]: recording_stamp(row) for row in rows}
        to_do = [row for row in rows if journal.entries.get(row["id"], {}).get("source") != sources[row["id"]]]
        if len(to_do) < len(rows):
            say(f"{len(rows) - len(to_do)} of {len(rows)} recordings are done already")
        failed: dict[str, str] = {}
        encoded = encode_rows(
            to_do,
            encoder,
            quantizer or codebook,
            deduplicate=deduplicate,
            batch_seconds=batch_seconds,
            workers=workers,
        )
        with closing(encoded):
            for result in progress(encoded, sum(map(recording_seconds, to_do))):
                name = result.row["id"]
                if result.error is not None:
                    failed[name] = result.error
                    say(f"left out: {result.error}")
                else:
                    journal.add(name, {"source": sources[name], "row": unit_row(result, facts)})
        results = [journal.entries[row["id"]]["row"] for row in rows if row["id"] not in failed]
        _write_errors(output, [row for row in rows if row["id"] in failed], failed)
        if not results and not may_be_empty:
            raise InputError(
                f"none of {len(rows)} recordings could be encoded; the first: {next(iter(failed.values()))}"
            )
        write_unit_file(output, results)
        journal.remove()
    return results


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
) -> list[dict[str, Any]]:
    """The rows of a unit file that is there already, if it is what encoding would give."""
    results = read_jsonl(output)
    if any(result.get("codebook") != facts["codebook"] for result in results):
        raise InputError(f"{output} is there already, made with another codebook: pass --overwrite to replace it")
    for name in ("duration_penalty", "num_neighbors", "dtype"):
        if any(result.get(name) != facts.get(name) for result in results):
            raise InputError(f"{output} is there already, made with another {name}: pass --overwrite to replace it")
    if any(("unitA" + DURATIONS in result) != deduplicate for result in results):
        what = "not deduplicated" if deduplicate else "deduplicated"
        raise InputError(f"{output} is there already, {what}: pass --overwrite to replace it")
    wanted = [row["id"] for row in rows]
    errors_file = errors_path(output)
    failed = {error["id"] for error in read_jsonl(errors_file)} if errors_file.exists() else set()
    if [result["audio"] for result in results] != [name for name in wanted if name not in failed]:
        raise InputError(f"{output} is there already, with other recordings: pass --overwrite to replace it")
    made = output.stat().st_mtime_ns
    changed = [row for row in rows if any(stamp(path)[-1:] > [made] for path in audio_paths(row))]
    if changed:
        raise InputError(
            f"{output} is there already, and {len(changed)} of its {len(rows)} recordings have changed since, such as "
            f"{audio_paths(changed[0])[0]}: pass --overwrite to encode them again"
        )
    say(f"{output} is complete already" + (f", without {len(failed)} that {errors_file} names" if failed else ""))
    return results


def _write_errors(output: Path, rows: Sequence[Mapping[str, Any]], reasons: Mapping[str, str]) -> None:
    if rows:
        kept = ("id", "audio_filepath", "copy_of", "speed")
        written = ({key: row[key] for key in kept if key in row} | {"error": reasons[row["id"]]} for row in rows)
        write_jsonl(errors_path(output), written)
    else:
        errors_path(output).unlink(missing_ok=True)
