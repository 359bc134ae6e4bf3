"""AMELA's token files: there and back, as torch reads them, and files that are something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.token_files import read_token_files, write_token_files
from tests.helpers.commands import CHECKOUT, RunCommand

ROWS: list[dict[str, Any]] = [
    {"audio": "a", "unitA": "7 7 1999 0", "deduplicated": False, "frame_rate": 50.0},
    {"audio": "b.c", "unitA": "3 4", "deduplicated": True, "frame_rate": 50.0},
]


def test_there_and_back(tmp_path: Path, run_loaded: RunCommand) -> None:
    assert write_token_files(ROWS, tmp_path / "tokens") == write_token_files(ROWS, tmp_path / "tokens") == 2
    assert torch.equal(torch.load(tmp_path / "tokens" / "a.pt"), torch.tensor([7, 7, 1999, 0]))
    assert list(read_token_files(tmp_path / "tokens")) == ROWS
    script = str(CHECKOUT / "data_prep" / "convert_tokens.py")
    run_loaded(["python", script, str(tmp_path / "tokens"), str(tmp_path / "units.jsonl")])
    run_loaded(["python", script, str(tmp_path / "units.jsonl"), str(tmp_path / "again")])
    assert list(read_token_files(tmp_path / "again")) == ROWS


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no \.pt files"):
        list(read_token_files(tmp_path))
    with pytest.raises(InputError, match="choose with --channel"):
        write_token_files([{**ROWS[0], "unitB": "1 2 3 4"}], tmp_path)
    with pytest.raises(InputError, match="cannot be the name of a file"):
        write_token_files([{**ROWS[0], "audio": "../a"}], tmp_path / "tokens")
    write_token_files(ROWS, tmp_path)
    with pytest.raises(InputError, match="a.pt is there already, with other units"):
        write_token_files([{**ROWS[0], "unitA": "7"}], tmp_path)
    for content in (torch.zeros(3), torch.zeros(1, 3, dtype=torch.long), torch.tensor([-1]), {"x": 1}, Path):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(InputError, match="a.pt: "):
            list(read_token_files(tmp_path))
