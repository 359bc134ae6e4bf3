"""RTTM: which speaker is which channel, by manifest, number, label or level; never by who speaks first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.io.rttm import SpeakerTurn, write_rttm
from speechdlm_ext.metrics.signal import short_time_power
from speechdlm_ext.vad import build_detector
from speechdlm_ext.vad.rttm import FRAME_SHIFT, RTTM, order_by_level


def read(tmp_path: Path, turns: list[tuple[str, int, float]], **row: object) -> tuple[list, list[str], bool]:
    path = tmp_path / "a.rttm"
    write_rttm(path, [SpeakerTurn("a", channel, start, 1.0, label) for label, channel, start in turns])
    found = RTTM((str(path),)).read("folder/a", row)
    assert found is not None and RTTM((str(path),)).read("b", row) is None
    assert build_detector(f"rttm:{path}") == RTTM((str(path),))
    return found.speech, list(found.speakers), found.by_channel


FIRST, SECOND = [(0.5, 1.5)], [(2.0, 3.0)]


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([("ben", 2, 0.5), ("anna", 1, 2)], ([SECOND, FIRST], ["anna", "ben"], True)),  # channel numbers
        ([("ben", 2, 0.5)], ([[], FIRST], ["", "ben"], True)),
        ([("B", 1, 0.5), ("A", 1, 2)], ([SECOND, FIRST], ["A", "B"], True)),  # labels
        ([("sw_2001-B", 1, 0.5), ("sw_2001-A", 1, 2)], ([SECOND, FIRST], ["sw_2001-A", "sw_2001-B"], True)),
        ([("right", 1, 0.5)], ([[], FIRST], ["", "right"], True)),
        ([("c_B", 1, 0.5)], ([[], FIRST], ["", "c_B"], True)),
        ([("zoe", 1, 0.5), ("anna", 1, 2)], ([SECOND, FIRST], ["anna", "zoe"], False)),  # unknown
        ([("zoe", 1, 0.5), ("zoe", 2, 2)], ([[*FIRST, *SECOND]], ["zoe"], False)),
        ([("SPEAKER_01", 1, 0.5), ("SPEAKER_00", 1, 2)], ([SECOND, FIRST], ["SPEAKER_00", "SPEAKER_01"], False)),
    ],
)
def test_the_order_of_channels(tmp_path: Path, turns: list, expected: tuple) -> None:
    assert read(tmp_path, turns) == expected


def test_the_manifest_says_the_order(tmp_path: Path) -> None:
    turns = [("zoe", 1, 0.5), ("anna", 1, 2)]
    assert read(tmp_path, turns, speakers=["zoe", "ben", "anna"]) == (
        [FIRST, [], SECOND],
        ["zoe", "ben", "anna"],
        True,
    )
    for wrong in (["zoe"], "zoe anna", ["zoe", "zoe", "anna"]):
        with pytest.raises(InputError, match=r"a: the manifest's speakers"):
            read(tmp_path, turns, speakers=wrong)


def test_a_real_call_whatever_the_order_of_speakers_and_channels(data: Path) -> None:
    """Channels of unequal gain, with crosstalk."""
    wave, rate = read_audio(data / "speech" / "calls" / "google_two_channel.flac")
    speech = build_detector("silero").detect(wave.numpy(), rate)
    leaky = wave.numpy() + 0.1 * wave.numpy()[::-1]
    for samples in (leaky, leaky * np.array([[0.03], [1.0]])):
        powers = [short_time_power(channel, rate, FRAME_SHIFT) for channel in samples]
        assert order_by_level(speech, powers) == [0, 1] and order_by_level(speech[::-1], powers) == [1, 0]
        assert order_by_level(speech, powers[::-1]) == [1, 0]
    assert order_by_level(speech[:1], [short_time_power(c, rate, FRAME_SHIFT) for c in leaky]) == [0]
    mono = short_time_power(wave.mean(dim=0).numpy(), rate, FRAME_SHIFT)
    assert order_by_level(speech, [mono, mono]) is None
    assert order_by_level([speech[0], speech[0]], powers) is None  # nobody speaks alone


@given(st.permutations([0, 1, 2, 3]), st.integers(1, 4), st.lists(st.floats(-20, 0), min_size=4, max_size=4))
def test_any_order_of_channels_is_found(order: list[int], speakers: int, gains: list[float]) -> None:
    powers = [np.full(400, 1e-7) for _ in order]
    speech = [[(float(number), number + 0.8)] for number in range(speakers)]
    for number, channel in enumerate(order[:speakers]):
        powers[channel][100 * number : 100 * number + 80] = 10 ** (gains[number] / 10)
    assert order_by_level(speech, powers) == order[:speakers]
