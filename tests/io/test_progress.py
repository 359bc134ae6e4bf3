"""Lines that say how far it is, at the right moments and with the right figures."""

from __future__ import annotations

from dataclasses import dataclass

from speechdlm_ext.io.progress import count, follow, format_time


@dataclass
class Piece:
    seconds: float


def test_lines_come_now_and_then_with_the_time_left() -> None:
    now = 0.0

    def pieces():
        nonlocal now
        for _ in range(100):
            now += 6.0  # each takes 6 s and has 60 s of sound: ten times real time
            yield Piece(60.0)

    said: list[str] = []
    passed = list(follow(pieces(), 6000.0, "encoding", said.append, every=60.0, clock=lambda: now))
    assert len(passed) == 100 and len(said) == 10
    assert said[0] == "encoding: 10 recordings, 0.17 of 1.67 h, 10 × real time, 9:00 left"
    assert said[-1].endswith("0:00 left")


def test_times() -> None:
    assert [format_time(s) for s in (0, 59.6, 61, 3599, 3600, 36000 + 125)] == [
        "0:00", "1:00", "1:01", "59:59", "1:00:00", "10:02:05",
    ]  # fmt: skip


def test_things_that_are_counted() -> None:
    now = 0.0

    def files():
        nonlocal now
        for number in range(50):
            now += 2.0
            yield number

    said: list[str] = []
    assert list(count(files(), 50, "reading", "file", said.append, every=30.0, clock=lambda: now)) == list(range(50))
    assert said == ["reading: 15 of 50 files, 1:10 left", "reading: 30 of 50 files, 0:40 left",
                    "reading: 45 of 50 files, 0:10 left"]  # fmt: skip
