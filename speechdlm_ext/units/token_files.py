"""AMELA's token files: a folder with ``<recording>.pt`` for each recording, a tensor of its units."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.recordings import check_name
from speechdlm_ext.units.files import choose_channel, format_units, row_units


def write_token_files(
    rows: Iterable[Mapping[str, Any]], folder: str | os.PathLike[str], channel: str | None = None
) -> int:
    """Write the units of each row as ``<folder>/<audio>.pt``, int64 (T,), as they are: deduplicated or not.

    Args:
        rows: of a unit file.
        folder: made when it is missing; files that say the same are left as they are.
        channel: of rows that have several.

    Returns:
        How many there are.

    Raises:
        InputError: a row has no units, several channels of which none is chosen, or a name that cannot be a file's; or
            a file is there that says something else.
    """
    count = 0
    for count, row in enumerate(rows, 1):
        where = f"row {row.get('audio', '?')}"
        name = check_name(row.get("audio"), f"row {count}: the name")
        (units,) = row_units(row, [choose_channel(row, channel, where)], deduplicated=True)
        path, tokens = Path(folder, f"{name}.pt"), torch.tensor(units)
        if path.exists():
            if not torch.equal(_read(path), tokens):
                raise InputError(f"{path} is there already, with other units: choose another folder")
            continue
        with atomic_write(path, "wb") as file:
            torch.save(tokens, file)
    return count


def read_token_files(folder: str | os.PathLike[str], frame_rate: float = 50.0) -> Iterator[dict[str, Any]]:
    """The rows of a unit file from the ``.pt`` files of a folder, in the order of their names.

    ``deduplicated`` says whether a row has no repetitions; durations are not known then.

    Raises:
        InputError: there are none, or one is not a tensor of units (nothing in it is run).
    """
    paths = sorted(Path(folder).glob("*.pt"))
    if not paths:
        raise InputError(f"{folder} has no .pt files")
    for path in paths:
        units = _read(path)
        repeats = bool((units[1:] == units[:-1]).any())
        yield {
            "audio": path.stem,
            "unitA": format_units(units.tolist()),
            "deduplicated": not repeats,
            "frame_rate": frame_rate,
        }


def _read(path: Path) -> torch.Tensor:
    try:
        tokens = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of unpickling
        raise InputError(f"{path}: not a tensor of units ({type(error).__name__})") from None
    tokens = tokens.get("units") if isinstance(tokens, dict) else tokens
    kind = getattr(tokens, "dtype", type(tokens).__name__)
    if not isinstance(tokens, torch.Tensor) or tokens.is_floating_point() or tokens.dim() != 1 or not tokens.numel():
        raise InputError(f"{path}: expected whole numbers (T,), found {kind} {list(getattr(tokens, 'shape', []))}")
    if int(tokens.min()) < 0:
        raise InputError(f"{path}: a unit below 0")
    return tokens.long()
