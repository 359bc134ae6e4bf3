"""Logs of long work: what was added is there after any kill, in bounded memory."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.resume_log import ResumeLog, read_resume_log

VALUES = st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=5)


@given(
    runs=st.lists(st.lists(st.tuples(st.text(max_size=3), VALUES), max_size=8), min_size=1, max_size=4),
    cut=st.integers(0, 30),
)
def test_a_log_is_a_dictionary_that_survives(
    tmp_path_factory: Any, runs: list[list[tuple[str, Any]]], cut: int
) -> None:
    path, expected = tmp_path_factory.mktemp("log") / "log", {}
    for added in runs:
        with ResumeLog(path, {"a": 1}) as log:
            assert list(log.entries.items()) == list(expected.items()) and not log.dropped
            for key, value in added:
                log.add(key, value)
                expected[key] = value
            assert dict(log.entries) == expected and len(log.entries) == len(expected)
            assert "none of them" not in log.entries
    with open(path, "ab") as file:  # a line that a kill has cut off
        file.write(b'{"key": "late", "value": 1}'[:cut])
    settings, entries = read_resume_log(path)
    assert settings == {"a": 1} and list(entries.items()) == list(expected.items())
    with ResumeLog(path, {"a": 1}) as log:
        log.add("late", 2)
    assert read_resume_log(path)[1] == {**expected, "late": 2}
    with ResumeLog(path, {"a": 2}) as log:
        assert log.dropped and not log.entries
        with pytest.raises(InputError, match="log: another run is at work on it"):
            ResumeLog(path, {"a": 2})
        log.remove()
    assert read_resume_log(path) == (None, {})


def test_two_processes_without_file_locks_keep_what_both_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As two tasks that were given the same shard, on a file system that has no locks to tell them apart."""

    def refuse(file: Any, operation: int) -> None:
        raise OSError(errno.ENOSYS, "none")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "log"
    with ResumeLog(path, {"a": 1}) as one, ResumeLog(path, {"a": 1}) as other:
        for number in range(5):
            for log in (one, other):
                log.add(f"{number}", {"value": number})
            one.add(f"only {number}", number)
        assert dict(other.entries) == {f"{number}": {"value": number} for number in range(5)}
        assert dict(one.entries) == {**other.entries, **{f"only {number}": number for number in range(5)}}
    assert read_resume_log(path)[1] == one.entries


MEMORY = """
import resource, sys
from speechdlm_ext.io.resume_log import ResumeLog
for count in (2_000, 200_000):
    with ResumeLog(f"{sys.argv[1]}/{count}", {}) as log:
        for number in range(count):
            log.add(f"recording number {number}", {"row": {"audio": str(number), "unitA": "1 2 3 4"}})
    with ResumeLog(f"{sys.argv[1]}/{count}", {}) as log:
        assert len(log.entries) == count and log.entries["recording number 7"]["row"]["audio"] == "7"
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_log(tmp_path: Path, run_command: Any) -> None:
    small, large = map(int, run_command(["python", "-c", MEMORY, tmp_path]).stdout.split())
    assert large - small < 10_000  # kB; keys and places alone would be 30,000 in a dictionary
