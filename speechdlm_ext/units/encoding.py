"""A manifest of recordings to a unit file, recording by recording, so that it can be stopped and started again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.journal import Journal
from speechdlm_ext.manifest import read_jsonl, write_jsonl
from speechdlm_ext.units.codebook import Codebook
from speechdlm_ext.units.encoder import Encoder
from speechdlm_ext.units.files import channel_names, format_units, read_unit_file, write_unit_file
from speechdlm_ext.units.recordings import audio_paths, recording_blocks

SPEED_STEP = 160  # Hz: other speeds are rounded to sampling rates that resampling is quick with


def with_speeds(rows: Sequence[Mapping[str, Any]], speeds: Sequence[float]) -> list[dict[str, Any]]:
    """The rows of a manifest, and after them copies that are to be heard faster or slower.

    Speed perturbation (Ko et al. 2015, Audio Augmentation for Speech Recognition): tempo and pitch change together, so
    that a model sees more voices than were recorded.

    Args:
        rows: of a manifest.
        speeds: factors; above 1 is faster. 1 itself adds nothing.

    Returns:
        The rows, then for each speed one copy of each, with ``copy_of`` (the original's id) and ``speed``.

    Raises:
        InputError: a factor that is not between 0.5 and 2, or a copy's id that another recording has.
    """
    for speed in speeds:
        if not 0.5 <= speed <= 2:
            raise InputError(f"--speeds {speed:g}: factors between 0.5 and 2 are wanted, for example 0.9 1.1")
    copies = [
        {**row, "id": f"{row['id']}-speed{speed:g}", "copy_of": row["id"], "speed": speed}
        for speed in dict.fromkeys(speeds)
        if speed != 1
        for row in rows
    ]
    taken = {copy["id"] for copy in copies} & {row["id"] for row in rows}
    if taken:
        raise InputError(f"--speeds: {min(taken)} is the id of another recording in the manifest: rename that one")
    return [*map(dict, rows), *copies]


def encode_recording(row: Mapping[str, Any], encoder: Encoder, codebook: Codebook) -> dict[str, Any]:
    """The row of a unit file for one recording of a manifest.

    Returns:
        ``{"audio": id, "unitA": "7 376 …", "unitB": …, "frame_rate": in Hz, "codebook": its fingerprint}``, and
        ``copy_of`` and ``speed`` of a row of :func:`with_speeds`.

    Raises:
        InputError: the recording cannot be read or is shorter than a frame.
    """
    # Samples of another rate, taken for the encoder's, are heard at another speed.
    rate = encoder.sample_rate
    if "speed" in row:
        rate = round(rate / row["speed"] / SPEED_STEP) * SPEED_STEP
    features = encoder.encode_blocks(recording_blocks(row, rate))
    names = channel_names(len(features))
    units = {
        name: format_units(codebook.quantize(channel).tolist()) for name, channel in zip(names, features, strict=True)
    }
    copied = {name: row[name] for name in ("copy_of", "speed") if name in row}
    made_by = {"frame_rate": codebook.frame_rate, "codebook": codebook.fingerprint}
    return {"audio": row["id"], **units, **made_by, **copied}


def encode_recordings(
    rows: Sequence[Mapping[str, Any]],
    codebook: Codebook,
    output: str | os.PathLike[str],
    overwrite: bool = False,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda items: items,
    say: Callable[[str], object] = print,
) -> list[dict[str, Any]]:
    """Encode every recording of a manifest into one unit file.

    Results are kept in ``OUTPUT.partial`` as they come; the unit file appears when all are there, in the order of the
    manifest, and is the same whether or not the work was interrupted. A recording that cannot be encoded costs a line
    in ``OUTPUT.errors.jsonl``.

    Args:
        rows: of a manifest.
        codebook: what to encode with, which also tells the encoder.
        output: the unit file.
        overwrite: replace a unit file that was made from other recordings or with another codebook.
        progress: wraps the recordings still to do.
        say: called with lines of text for the user.

    Returns:
        The rows of the unit file.

    Raises:
        InputError: the unit file is there and is another one, or no recording could be encoded.
    """
    encoder = codebook.build_encoder()
    output = Path(output)
    if output.exists() and not overwrite:
        return _existing(rows, codebook, output, say)
    errors: list[dict[str, Any]] = []
    with Journal(output.with_name(output.name + ".partial"), {"codebook": codebook.fingerprint}) as journal:
        if journal.dropped:
            say(f"{journal.path}: made with another codebook, starting over")
        sources = {row["id"]: _source(row) for row in rows}
        to_do = [row for row in rows if journal.entries.get(row["id"], {}).get("source") != sources[row["id"]]]
        if len(to_do) < len(rows):
            say(f"{len(rows) - len(to_do)} of {len(rows)} recordings are done already")
        for row in progress(to_do):
            try:
                result = encode_recording(row, encoder, codebook)
            except InputError as error:
                errors.append({"id": row["id"], "audio_filepath": row["audio_filepath"], "error": one_line(error)})
                say(f"left out: {one_line(error)}")
            else:
                journal.add(row["id"], {"source": sources[row["id"]], "row": result})
        failed = {error["id"] for error in errors}
        results = [journal.entries[row["id"]]["row"] for row in rows if row["id"] not in failed]
        _write_errors(output, errors)
        if not results:
            raise InputError(f"none of {len(rows)} recordings could be encoded; the first: {errors[0]['error']}")
        write_unit_file(output, results)
        journal.remove()
    return results


def _existing(
    rows: Sequence[Mapping[str, Any]], codebook: Codebook, output: Path, say: Callable[[str], object]
) -> list[dict[str, Any]]:
    """The rows of a unit file that is there already, if it is what encoding would give."""
    results = read_unit_file(output)
    if any(result.get("codebook") != codebook.fingerprint for result in results):
        raise InputError(f"{output} is there already, made with another codebook: pass --overwrite to replace it")
    wanted = [row["id"] for row in rows]
    errors_file = _errors_path(output)
    failed = {error["id"] for error in read_jsonl(errors_file)} if errors_file.exists() else set()
    if [result["audio"] for result in results] != [name for name in wanted if name not in failed]:
        raise InputError(f"{output} is there already, with other recordings: pass --overwrite to replace it")
    say(f"{output} is complete already")
    return results


def _source(row: Mapping[str, Any]) -> list[Any]:
    """What tells whether a recording is still the one that was encoded."""
    paths = audio_paths(row)
    return [[path, *_stamp(path)] for path in paths] + ([row["speed"]] if "speed" in row else [])


def _stamp(path: str) -> list[int]:
    if not os.path.exists(path):
        return []
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _errors_path(output: Path) -> Path:
    return output.with_name(output.name + ".errors.jsonl")


def _write_errors(output: Path, errors: list[dict[str, Any]]) -> None:
    if errors:
        write_jsonl(_errors_path(output), errors)
    else:
        _errors_path(output).unlink(missing_ok=True)
