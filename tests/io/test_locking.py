"""One process at a time, whatever becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.locking import exclusive, open_locked

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


@pytest.mark.parametrize("change", ["removed", "renamed"])
def test_the_locked_file_is_the_named_one(tmp_path: Path, change: str) -> None:
    """Whoever waited for a file that was renamed or removed meanwhile gets the one that has its name now."""
    path, got = tmp_path / "log", []
    with open_locked(path) as held:
        held.write(b"old\n")
        held.flush()
        waiting = Thread(target=lambda: got.append(open_locked(path, wait=30)))
        waiting.start()
        time.sleep(0.3)
        path.unlink() if change == "removed" else path.rename(tmp_path / "done")
    waiting.join()
    with got[0] as file:
        assert os.path.samestat(os.fstat(file.fileno()), path.stat()) and file.read() == b""
        with pytest.raises(InputError, match="log: another run is at work on it"):
            open_locked(path)


# A file system without locks, which cannot be mounted here: the system's call is refused as Lustre and NFS refuse it.
REFUSE = """
import errno, fcntl, os, runpy, sys
number = getattr(errno, sys.argv[1])
def refuse(file, operation):
    raise OSError(number, os.strerror(number))
fcntl.flock = refuse
sys.argv = sys.argv[2:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("error", ["ENOSYS", "ENOLCK", "ENOTSUP"])
def test_commands_work_on_file_systems_without_locks(tmp_path: Path, run_command, checkout: Path, error: str) -> None:
    """One line of warning, and the same files; other errors of the system are not taken for that."""
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", np.random.default_rng(1).standard_normal(16000) * 0.1, 16000)
    (tmp_path / "train.unitA").write_text("1 2 3 3\n4 5 6 6\n")
    commands = {
        "make_manifest": [tmp_path / "in", tmp_path / "{}.jsonl"],
        "binarize": ["--trainpref", tmp_path / "train", "--destdir", tmp_path / "{}-bin"],
    }
    for script, arguments in commands.items():
        for name, start in (("locks", []), ("none", ["-c", REFUSE, error])):
            words = [str(word).format(name) for word in arguments]
            done = run_command(["python", *start, checkout / f"data_prep/{script}.py", *words])
            warnings = [line for line in done.stderr.splitlines() if "no file locks" in line]
            assert len(warnings) == (name == "none") and "Traceback" not in done.stderr
    assert (tmp_path / "none.jsonl").read_bytes() == (tmp_path / "locks.jsonl").read_bytes()
    assert (tmp_path / "none-bin/train.unitA.bin").read_bytes() == (tmp_path / "locks-bin/train.unitA.bin").read_bytes()
    words = ["-c", REFUSE, "EIO", checkout / "data_prep/make_manifest.py", tmp_path / "in", tmp_path / "x.jsonl"]
    done = run_command(["python", *words], check=False)
    assert done.returncode == 2 and "Input/output error: " in done.stderr and len(done.stderr.splitlines()) == 1
