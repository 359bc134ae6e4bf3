"""Texts and confusions that validation writes for tensorboard."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from speechdlm_ext.tasks.validation_log import ValidationLog
from tests.helpers.tensorboard import texts_of


def test_the_first_utterances_and_all_confusions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = ValidationLog()
    for number in (7, 3, 9, 1, 4, 2, 8):
        log.add(number, f"said {number}", "a | b")
    log.write(str(tmp_path), 10, ())
    log.add(0, "later", "")
    with caplog.at_level(logging.INFO):
        log.write(str(tmp_path), 20, ("no", "yes"), torch.tensor([[5.0, 0.0], [2.0, 1.0]]))
    first, second = texts_of(tmp_path / "valid", "examples")
    assert first[0] == 10 and second == (20, "| said | recognised |\n|---|---|\n| later |  |")
    assert [line.split(" | ")[0] for line in first[1].splitlines()[2:]] == [f"| said {n}" for n in (1, 2, 3, 4, 7)]
    assert "a \\| b" in first[1]
    ((step, table),) = texts_of(tmp_path / "valid", "confusion")
    assert step == 20 and table.splitlines()[2:] == ["| no | 5 | 0 |", "| yes | 2 | 1 |"]
    assert "yes → no 2" in caplog.text and "no → yes" not in caplog.text
    ValidationLog().write(None, 1, ("no", "yes"), torch.eye(2))  # nothing to write to
