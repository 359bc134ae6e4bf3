"""One process at a time, whatever becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.locking import exclusive

HOLD = """
import sys
from speechdlm_ext.io.locking import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_second_process_is_refused_until_the_first_ends_or_is_killed(tmp_path: Path) -> None:
    output = tmp_path / "new folder" / "units.jsonl"
    for end in (signal.SIGKILL, None):
        process = holder(output)
        with pytest.raises(InputError, match=r"units.jsonl: another run is at work on it"), exclusive(output):
            pass
        with exclusive(tmp_path / "new folder" / "other.jsonl"):
            pass
        if end is None:
            process.communicate()
            assert not list(output.parent.iterdir())
        else:
            process.send_signal(end)
            process.wait()
        with exclusive(output):
            assert [path.name for path in output.parent.iterdir()] == [".units.jsonl.lock"]
        assert not list(output.parent.iterdir())


def test_within_one_process(tmp_path: Path) -> None:
    with exclusive(tmp_path / "x"), pytest.raises(InputError, match="another run"), exclusive(tmp_path / "x"):
        pass
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "x"):
        raise ZeroDivisionError
    with exclusive(tmp_path / "x"):
        pass
