"""Old names of options are the same options, and the help does not show them."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from speechdlm_ext.commands.old_names import add_old_names


def test_old_names_work_and_are_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument_group("more").add_argument("--num-workers", type=int, default=3)
    add_old_names(parser, {"--out": "--output", "--jobs": "--num-workers"})
    assert vars(parser.parse_args(["--out", "a"])) == {"output": Path("a"), "num_workers": 3}
    assert vars(parser.parse_args(["--output=b", "--jobs=2"])) == {"output": Path("b"), "num_workers": 2}
    with pytest.raises(SystemExit):
        parser.parse_args([])
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    printed = capsys.readouterr()
    assert "--jobs" not in printed.out and "--out " not in printed.out and "--output" in printed.out
    assert "the following arguments are required: --output" in printed.err
