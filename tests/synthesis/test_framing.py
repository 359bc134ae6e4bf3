"""Deduplicated units last as long as they should, or nothing is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.audio import read_audio
from speechdlm_ext.errors import InputError
from speechdlm_ext.synthesis import HiFiGANVocoder
from speechdlm_ext.synthesis.framing import are_deduplicated
from speechdlm_ext.synthesis.speaking import speak_rows
from tests.synthesis.vocoders import published_config, published_weights, write

RUNS = {"audio": "a", "unitA": " ".join(map(str, range(24))), "unitB": " ".join(map(str, range(30, 42)))}
DRAWN = {"unitA.durations": " ".join(["1", "2", "3"] * 8), "unitB.durations": " ".join(["4"] * 12)}


@pytest.fixture(scope="module")
def vocoders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, HiFiGANVocoder]:
    """Without and with a predictor of durations."""
    made = {}
    for durations in (False, True):
        config = published_config(durations=durations)
        folder = tmp_path_factory.mktemp("vocoder")
        made[durations] = HiFiGANVocoder.load(write(folder, config, published_weights(config)))
    return made


def test_what_counts_as_deduplicated() -> None:
    assert are_deduplicated([RUNS])
    assert are_deduplicated([{"audio": "a", "unitA": "1 2 3 4 5 6"}, {"audio": "b", "unitA": "7 8 9 7 8 9 " * 3}])
    assert not are_deduplicated([RUNS, {"audio": "b", "unitA": "1 1"}])  # duplicated somewhere
    assert not are_deduplicated([{"audio": "b", "unitA": "1 2 3 4 5"}])  # too few to tell
    assert not are_deduplicated([{**RUNS, **DRAWN}])


@pytest.mark.parametrize("predictor", [False, True])
def test_durations_that_are_given_count(vocoders: Any, tmp_path: Path, predictor: bool) -> None:
    vocoder = vocoders[predictor]
    row = {**RUNS, **DRAWN, "frame_rate": 50.0}
    (path,) = speak_rows([row], vocoder, tmp_path)
    sound, rate = read_audio(path)
    assert rate == 16000 and sound.shape == (2, 48 * 320)
    frames = [[unit for unit, count in zip(range(24), [1, 2, 3] * 8, strict=True) for _ in range(count)]]
    frames.append([unit for unit in range(30, 42) for _ in range(4)])
    wanted = vocoder.decode(torch.tensor(frames).T[None])[0]
    torch.testing.assert_close(sound, wanted, rtol=0, atol=1e-4)  # 16 bits


def test_units_without_durations_are_predicted_or_refused(vocoders: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="deduplicated, and speech made from them would be compressed in time"):
        speak_rows([RUNS], vocoders[False], tmp_path)
    assert not list(tmp_path.glob("*.wav"))
    said: list[str] = []
    (path,) = speak_rows([RUNS], vocoders[True], tmp_path, say=said.append)
    assert said == ["the units are deduplicated: the vocoder predicts their durations"]
    sound, _ = read_audio(path)
    lengths = [
        int(vocoders[True].predict_durations(torch.tensor([int(unit) for unit in RUNS[channel].split()])).sum())
        for channel in ("unitA", "unitB")
    ]
    assert lengths[0] != lengths[1] and sound.shape == (2, 320 * max(lengths))
    shorter = lengths.index(min(lengths))
    assert float(sound[shorter, min(lengths) * 320 :].abs().max()) == 0
    assert float(sound[shorter, : min(lengths) * 320].std()) > 0.01


def test_one_unit_a_frame_can_be_insisted_on(vocoders: Any, tmp_path: Path) -> None:
    row = {"audio": "a", "unitA": RUNS["unitA"]}
    (path,) = speak_rows([row], vocoders[False], tmp_path, duplicated=True)
    assert read_audio(path)[0].shape == (1, 24 * 320)


def test_durations_that_do_not_fit(vocoders: Any, tmp_path: Path) -> None:
    for change, message in (
        ({"unitA.durations": "1 2"}, "24 units, but 2 durations"),
        ({"unitA.durations": "x" + DRAWN["unitA.durations"][1:]}, "unitA.durations: unit 'x'"),
        ({"unitB.durations": " ".join(["3"] * 12)}, r"channels of unequal length \(48, 36 frames\)"),
        ({"frame_rate": 25.0}, "made with frame_rate 25.0, the vocoder has frame_rate 50.0"),
    ):
        with pytest.raises(InputError, match=message):
            speak_rows([{**RUNS, **DRAWN, **change}], vocoders[False], tmp_path)
    assert not list(tmp_path.glob("*.wav"))
