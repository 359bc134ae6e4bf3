"""Recordings read ahead: in order, the same samples, errors where they belong, and no thread left behind."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.io.read_ahead import ahead, read_ahead


@pytest.fixture
def rows(tmp_path: Path) -> list[dict]:
    made = []
    for number in range(9):
        sound = 0.1 * np.random.default_rng(number).standard_normal((4000 + 1000 * number, 1 + number % 2))
        soundfile.write(tmp_path / f"{number}.wav", sound, (8000, 16000, 22050)[number % 3])
        made.append({"id": str(number), "audio_filepath": str(tmp_path / f"{number}.wav")})
    (tmp_path / "4.wav").write_text("no sound")
    return made


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("reader", "ahead"))]


def wait_for_no_threads() -> None:
    end = time.monotonic() + 60
    while threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert not threads()


@pytest.mark.parametrize("workers", [1, 4])
def test_in_order_with_errors_in_their_place(rows: list[dict], workers: int) -> None:
    with closing(read_ahead(rows, 16000, workers)) as readings:
        for row, reading in zip(rows, readings, strict=True):
            assert reading.row is row
            if row["id"] == "4":
                with pytest.raises(InputError, match="4.wav is not audio"):
                    list(reading)
                continue
            wave = torch.cat(list(reading), dim=1)
            assert torch.equal(wave, read_audio(row["audio_filepath"], 16000)[0])
            assert reading.samples == wave.shape[1]
    wait_for_no_threads()


def test_what_is_not_taken_is_let_go(rows: list[dict], tmp_path: Path) -> None:
    """A recording of more blocks than wait, of which one is taken; then nothing more is."""
    soundfile.write(tmp_path / "0.wav", np.zeros(8000 * 400), 8000)
    with closing(read_ahead(rows, 8000, 2)) as readings:
        assert next(iter(next(readings))).shape == (1, 240_000)
        assert sum(block.shape[1] for block in next(readings)) == 2500
    wait_for_no_threads()


def test_items_made_ahead() -> None:
    made: list[int] = []

    def items():
        try:
            for number in range(100):
                made.append(number)
                yield number
        finally:
            made.append(-1)

    with closing(ahead(items())) as taken:
        assert [next(taken) for _ in range(3)] == [0, 1, 2]
    assert made[-1] == -1 and len(made) <= 3 + 1 + 1
    assert list(ahead(n for n in range(20))) == list(range(20))

    def broken():
        yield 1
        raise InputError("the second")

    taken = ahead(broken())
    assert next(taken) == 1
    with pytest.raises(InputError, match="the second"):
        next(taken)
    wait_for_no_threads()


MEMORY = """
import resource, sys
from contextlib import closing
from speechdlm_ext.io.read_ahead import read_ahead
for minutes in (1, 60):
    with closing(read_ahead([{"audio_filepath": f"{sys.argv[1]}/{minutes}.wav"}], 16000)) as readings:
        for reading in readings:
            assert sum(block.shape[1] for block in reading) == minutes * 960_000
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_an_hour_takes_little_more_memory_than_a_minute(tmp_path: Path, run_command) -> None:
    minute = 0.1 * np.random.default_rng(0).standard_normal((480_000, 2))
    for minutes in (1, 60):
        with soundfile.SoundFile(tmp_path / f"{minutes}.wav", "w", 8000, 2, "ULAW") as file:
            for _ in range(minutes):
                file.write(minute)
    short, long = map(int, run_command(["python", "-c", MEMORY, tmp_path]).stdout.split())
    assert long - short < 100_000  # kB; the hour's samples are 460,000
