"""JSON lines: one object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; empty lines are passed over.

    Raises:
        InputError: the file is missing, or a line is not a JSON object; the message names the line.
    """
    return [row for _, row in read_numbered_jsonl(path)]


def read_numbered_jsonl(path: str | os.PathLike[str]) -> list[tuple[int, dict[str, Any]]]:
    """The same as :func:`read_jsonl` with the number of each row's line, from 1 on."""
    rows = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise InputError(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})") from None
                if not isinstance(row, dict):
                    raise InputError(f"{path}, line {number}: a JSON object is wanted, found {type(row).__name__}")
                rows.append((number, row))
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; a manifest has one JSON object a line") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    return rows


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically; text stays readable (no ASCII escapes)."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def errors_path(output: str | os.PathLike[str]) -> Path:
    """The file beside ``output`` that says what was left out of it, and why."""
    output = Path(output)
    return output.with_name(output.name + ".errors")
