"""`make` says in one line what is wrong, and hands a folder's name on as it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def _make(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Run by `make test`, this is a make within a make: what the outer one was told must not reach the inner one.
    outer = ("MAKE", "MFLAGS", "ARGS", "AUDIO", "PYTHON", "TORCH")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    command = ["make", "--no-print-directory", "-C", str(checkout), *arguments]
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, timeout=600)


def _executable(path: Path, code: str) -> str:
    path.write_text(code, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_an_older_python_is_one_line(checkout, tmp_path):
    pretend = "import sys; sys.version_info = (3, 9, 18); exec(sys.argv[1])"
    code = f'#!/bin/sh\n[ "$1" = -c ] && exec "{sys.executable}" -c "{pretend}" "$2"\necho must not get here >&2\n'
    done = _make(checkout, "test", PYTHON=_executable(tmp_path / "python3.9", code))
    assert done.returncode != 0 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "Python 3.9" in line and "3.10 or newer is needed" in line and "make test" in line


def test_a_python_that_is_not_there_is_one_line(checkout):
    done = _make(checkout, "demo", PYTHON="python3.99")
    assert done.returncode != 0 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "PYTHON=python3.99 is not to be found" in line


@pytest.mark.parametrize(
    "name",
    [
        "calls",
        "two words",
        'it\'s a "test"',
        "Gespräche – 会話",
        "$HOME `date` $(date)",
        "a;b&c|d>e",
        "--overwrite",
        "back\\slash",
    ],
)
def test_a_folder_reaches_the_demo_by_any_name(checkout, tmp_path, name):
    stub = _executable(tmp_path / "run", f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    done = _make(checkout, "-o", "setup", "demo", f"RUN={stub}", f"AUDIO={name}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["scripts/demo.py", "--audio", name]


def test_without_a_folder_the_demo_makes_its_own_recordings(checkout, tmp_path):
    stub = _executable(tmp_path / "run", '#!/bin/sh\nfor word; do printf "<%s>" "$word"; done\n')
    assert _make(checkout, "-o", "setup", "demo", f"RUN={stub}").stdout == "<scripts/demo.py>"


def test_help_needs_no_python(checkout):
    done = _make(checkout, "help", PYTHON="python3.99")
    assert done.returncode == 0
    for goal in ("setup", "demo", "test", "test-all", "lint", "bench", "clean"):
        assert f"make {goal} " in done.stdout
