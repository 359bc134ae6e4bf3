"""Recordings of a manifest to codec tokens, one after the other; it can be stopped anywhere and started again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from speechdlm_ext.codecs.base import Codec
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.manifest import errors_path, write_jsonl
from speechdlm_ext.io.recordings import audio_paths, recording_blocks, recording_stamp
from speechdlm_ext.io.resume_log import ResumeLog

Row = Mapping[str, Any]


def encode_codec(
    rows: Sequence[Row],
    codec: Codec,
    output: str | os.PathLike[str],
    made_by: Mapping[str, Any],
    overwrite: bool = False,
    may_be_empty: bool = False,
    progress: Callable[[Iterable[Row]], Iterable[Row]] = iter,
    say: Callable[[str], object] = print,
) -> int:
    """Write the rows of a manifest with ``codec`` and ``codec_rate``, frames per second; other fields stay.

    ``codec`` is "12 7 …", or a list of these, one for each of several codebooks. Sound is resampled for the codec.

    Results are kept in ``OUTPUT.partial`` as they come. A recording that cannot be encoded, or has more than one
    channel, costs a line in ``OUTPUT.errors``.

    Args:
        rows: of a manifest, with ids.
        codec: what encodes, on its device.
        made_by: what the tokens depend on beside the recordings.
        may_be_empty: write a file of no rows where there are none, as a shard may be.
        progress: wraps the rows that are still to do.
        say: called with lines of text for the user.

    Returns:
        How many rows were written.

    Raises:
        InputError: the output exists and not ``overwrite``; or no recording could be encoded.
    """
    output = Path(output)
    if output.exists() and not overwrite:
        raise InputError(f"{output} exists: pass --overwrite to replace it")
    with ResumeLog(output.with_name(output.name + ".partial"), dict(made_by)) as log:
        if log.dropped:
            say(f"{log.path}: made with other settings, starting over")
        stamps = {row["id"]: recording_stamp(row) for row in rows}
        to_do = [row for row in rows if log.entries.get(row["id"], {}).get("source") != stamps[row["id"]]]
        failed: dict[str, str] = {}
        for row in progress(to_do):
            try:
                log.add(row["id"], {"source": stamps[row["id"]], "codec": _tokens(row, codec)})
            except InputError as error:
                failed[row["id"]] = one_line(error)
                say(f"skipped: {failed[row['id']]}")
        done = [row for row in rows if row["id"] not in failed]
        if not done and not (may_be_empty and not rows):
            raise InputError(
                f"none of {len(rows)} recordings could be encoded; the first: {next(iter(failed.values()))}"
            )
        write_jsonl(errors_path(output), ({"id": name, "error": failed[name]} for name in failed))
        if not failed:
            errors_path(output).unlink()
        rate = codec.frame_rate
        tokens = ({"codec": log.entries[row["id"]]["codec"], "codec_rate": rate} for row in done)
        write_jsonl(output, ({**row, **new} for row, new in zip(done, tokens, strict=True)))
        log.remove()
    return len(done)


def _tokens(row: Row, codec: Codec) -> str | list[str]:
    wave = torch.cat(list(recording_blocks(row, codec.sample_rate)), 1)
    if len(wave) != 1:
        raise InputError(
            f"{audio_paths(row)[0]} has {len(wave)} channels, 1 is expected: name one with channel_selector"
        )
    lines = [" ".join(map(str, codes)) for codes in codec.encode(wave.to(codec.device))[0].tolist()]
    return lines[0] if len(lines) == 1 else lines
