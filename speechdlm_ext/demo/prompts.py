"""Choose beginnings of held-out segments as prompts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.io.manifest import write_jsonl
from speechdlm_ext.units.files import read_unit_file


def choose_prompts(
    rows: list[dict[str, Any]], count: int, prompt_frames: int, total_frames: int
) -> list[dict[str, Any]]:
    """The first frames of up to ``count`` segments, spread over all that are long enough.

    A segment is long enough if it goes on for as long as the model will (``total_frames``, give or take a tenth), so
    that real and generated continuation can be compared; if there is none, the longest ones are taken.

    Args:
        rows: unit rows of the segments, ``unitA``, ``unitB``, … as strings.
        count: prompts wanted.
        prompt_frames: frames of a prompt; at most a half of the segment.
        total_frames: frames of prompt and continuation.

    Returns:
        Rows with the units of the prompt only, and ``prompt_frames``.

    Raises:
        InputError: no segment is as long as two frames.
    """
    channels = [name for name in rows[0] if name.startswith("unit")] if rows else []
    lengths = [len(row[channels[0]].split()) for row in rows]
    usable = [row for row, length in zip(rows, lengths, strict=True) if length >= 0.9 * total_frames]
    if not usable and lengths and max(lengths) >= 2:
        usable = [row for row, length in zip(rows, lengths, strict=True) if length >= 0.8 * max(lengths)]
    if not usable:
        raise InputError("no held-out segment is long enough for a prompt: give more audio")
    spread = min(count, len(usable))
    chosen = [usable[number * len(usable) // spread] for number in range(spread)]
    prompts = []
    for row in chosen:
        units = {name: row[name].split() for name in channels}
        frames = min(prompt_frames, len(units[channels[0]]) // 2)
        cut = {name: " ".join(words[:frames]) for name, words in units.items()}
        prompts.append({**row, **cut, "prompt_frames": frames})
    return prompts


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("units", type=Path, help="unit file of held-out segments")
    parser.add_argument("prompts", type=Path, help="unit file to write")
    parser.add_argument("--count", type=int, default=4, help="prompts (default: %(default)s)")
    parser.add_argument("--prompt-frames", type=int, default=250, help="frames of each (default: %(default)s)")
    parser.add_argument("--total-frames", type=int, default=750, help="with the continuation (default: %(default)s)")
    options = parser.parse_args()
    rows = read_unit_file(options.units)
    write_jsonl(options.prompts, choose_prompts(rows, options.count, options.prompt_frames, options.total_frames))


if __name__ == "__main__":
    run_command(main)
