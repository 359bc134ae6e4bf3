"""Deduplicated units last as long as they should, or nothing is made of them."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.vocoders import HiFiGANVocoder
from speechdlm_ext.vocoders.durations import are_deduplicated
from speechdlm_ext.vocoders.synthesize import synthesize_rows
from tests.helpers.vocoders import published_config, published_weights, write

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


def long_row(name: str, repeated: float, seed: int = 1) -> dict[str, Any]:
    """400 units, a share of them followed by themselves."""
    chance = random.Random(seed)
    units = [0]
    while len(units) < 400:
        units.append(units[-1] if chance.random() < repeated else (units[-1] + chance.randint(1, 49)) % 50)
    return {"audio": name, "unitA": " ".join(map(str, units))}


def test_rows_say_whether_they_are_deduplicated() -> None:
    """Ours do, whatever their units look like; durations say it too."""
    said: list[str] = []
    rows = [{**long_row("a", 0.0), "deduplicated": False}, {**long_row("b", 0.4), "deduplicated": True}]
    assert are_deduplicated([*rows, {**RUNS, **DRAWN, "deduplicated": True}], said.append) == [False, True, False]
    assert said == []
    with pytest.raises(InputError, match='row a: "deduplicated": 1, expected true or false'):
        are_deduplicated([{**rows[0], "deduplicated": 1}])


def test_foreign_rows_are_judged_together_and_that_is_said() -> None:
    few = [{"audio": "a", "unitA": "1 2 3 4 5 6"}, {"audio": "b", "unitA": "7 8 9 7 8 9 " * 3}]
    for rows, expected, words in (
        ([RUNS], [True], "1 of 1 rows .* deduplicated, as no unit is followed by itself"),
        (few, [True, True], "2 of 2 rows"),
        ([{**RUNS, **DRAWN}, RUNS], [False, True], "1 of 2 rows"),
        ([RUNS, {"audio": "b", "unitA": "1 1"}], [False, False], "one unit a frame"),
        ([{"audio": "b", "unitA": "1 2 3 4 5"}], [False], "one unit a frame"),  # too few to tell
        ([{"audio": "b", "unitA": "1"}] * 50, [False] * 50, "one unit a frame"),
        ([long_row("a", 0.03)], [False], "one unit a frame"),
    ):
        said: list[str] = []
        assert are_deduplicated(rows, said.append) == expected
        assert len(said) == 1 and re.search(words, said[0])


@pytest.mark.parametrize("predictor", [False, True])
def test_durations_that_are_given_count(vocoders: Any, tmp_path: Path, predictor: bool) -> None:
    vocoder = vocoders[predictor]
    row = {**RUNS, **DRAWN, "frame_rate": 50.0}
    (path,) = synthesize_rows([row], vocoder, tmp_path)
    sound, rate = read_audio(path)
    assert rate == 16000 and sound.shape == (2, 48 * 320)
    frames = [[unit for unit, count in zip(range(24), [1, 2, 3] * 8, strict=True) for _ in range(count)]]
    frames.append([unit for unit in range(30, 42) for _ in range(4)])
    expected = vocoder.decode(torch.tensor(frames).T[None])[0]
    torch.testing.assert_close(sound, expected, rtol=0, atol=1e-4)  # 16 bits


def test_units_without_durations_are_predicted_or_refused(vocoders: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="deduplicated, and speech made from them would be compressed in time"):
        synthesize_rows([RUNS], vocoders[False], tmp_path)
    assert not list(tmp_path.glob("*.wav"))
    said: list[str] = []
    (path,) = synthesize_rows([RUNS], vocoders[True], tmp_path, say=said.append)
    assert said[1:] == ["the units are deduplicated: the vocoder predicts their durations"]
    sound, _ = read_audio(path)
    lengths = [
        int(vocoders[True].predict_durations(torch.tensor([int(unit) for unit in RUNS[channel].split()])).sum())
        for channel in ("unitA", "unitB")
    ]
    assert lengths[0] != lengths[1] and sound.shape == (2, 320 * max(lengths))
    shorter = lengths.index(min(lengths))
    assert float(sound[shorter, min(lengths) * 320 :].abs().max()) == 0
    assert float(sound[shorter, : min(lengths) * 320].std()) > 0.01


def test_too_few_units_to_tell_are_said(vocoders: Any, tmp_path: Path) -> None:
    said: list[str] = []
    (path,) = synthesize_rows([{"audio": "a", "unitA": "1 2 3"}], vocoders[False], tmp_path, say=said.append)
    assert said == ['1 of 1 rows do not say "deduplicated": they are taken as one unit a frame']
    assert read_audio(path)[0].shape == (1, 3 * 320)
    synthesize_rows([{"audio": "a", "unitA": "1 2 3"}], vocoders[False], tmp_path, frame_level=True, say=said.append)
    assert said[1:] == ["1 of 1 wav files exist already"]


def test_only_what_is_deduplicated_is_predicted(vocoders: Any, tmp_path: Path) -> None:
    said: list[str] = []
    rows = [{**long_row("spoken", 0.4), "deduplicated": False}, long_row("runs", 0.0)]
    spoken, runs = synthesize_rows(rows, vocoders[True], tmp_path, say=said.append)
    assert said[1:] == ["1 of 2 rows are deduplicated: the vocoder predicts their durations"]
    labels = torch.tensor([int(unit) for unit in rows[1]["unitA"].split()])
    assert read_audio(spoken)[0].shape == (1, 400 * 320)
    assert read_audio(runs)[0].shape == (1, 320 * int(vocoders[True].predict_durations(labels).sum()))


@pytest.mark.parametrize("predictor", [False, True])
def test_units_beyond_the_vocoders_are_found_before_anything_is_made(
    vocoders: Any, tmp_path: Path, predictor: bool
) -> None:
    beyond = {**RUNS, "audio": "far", "unitB": RUNS["unitB"] + " 50"}
    drawn = {**RUNS, **DRAWN, "audio": "far", "unitB": "30 31 32 33 34 35 36 37 38 39 40 999999999999999999"}
    for wrong, unit in ((beyond, "50"), (drawn, "999999999999999999")):
        with pytest.raises(InputError, match=f"^row far, unitB: unit {unit} is not among .* which has 0 to 49: take"):
            synthesize_rows([{**RUNS, **DRAWN}, wrong], vocoders[predictor], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.commands
def test_names_are_compared_in_no_time(vocoders: Any, tmp_path: Path) -> None:
    rows = [{"audio": str(number), "unitA": "1 1"} for number in range(40000)]
    begin = time.process_time()
    with pytest.raises(InputError, match="two rows are named 7:"):
        synthesize_rows([*rows, rows[7]], vocoders[False], tmp_path)
    assert time.process_time() - begin < 5


def test_one_unit_a_frame_can_be_insisted_on(vocoders: Any, tmp_path: Path) -> None:
    row = {"audio": "a", "unitA": RUNS["unitA"]}
    (path,) = synthesize_rows([row], vocoders[False], tmp_path, frame_level=True)
    assert read_audio(path)[0].shape == (1, 24 * 320)


def test_durations_that_do_not_fit(vocoders: Any, tmp_path: Path) -> None:
    for change, message in (
        ({"unitA.durations": "1 2"}, "24 units, but 2 durations"),
        ({"unitA.durations": "x" + DRAWN["unitA.durations"][1:]}, "unitA.durations: unit 'x'"),
        ({"unitA.durations": "99999999999" + DRAWN["unitA.durations"][1:]}, "row a, unitA.durations: 99999999999 fra"),
        ({"unitB.durations": " ".join(["3"] * 12)}, r"channels of unequal length \(48, 36 frames\)"),
        ({"frame_rate": 25.0}, "made with frame_rate 25.0, the vocoder has frame_rate 50.0"),
    ):
        with pytest.raises(InputError, match=message):
            synthesize_rows([{**RUNS, **DRAWN, **change}], vocoders[False], tmp_path)
    assert not list(tmp_path.glob("*.wav"))


def test_rows_without_a_name_or_units_are_told_by_their_number(vocoders: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match='^row 2: "audio": None cannot be the name'):
        synthesize_rows([RUNS, {"unitA": "1 2"}], vocoders[False], tmp_path)
    with pytest.raises(InputError, match="^row b: channels unitA, unitB, … are expected, found none"):
        synthesize_rows([RUNS, {"audio": "b", "units": "1 2"}], vocoders[False], tmp_path)


def test_channels_in_step_are_one_unit_a_frame() -> None:
    units = [" ".join(map(str, range(start, start + 200))) for start in (0, 7)]
    dialogue = {"audio": "a", "unitA": units[0], "unitB": units[1]}
    runs = {"audio": "b", "unitA": units[0], "unitB": units[1] + " 3"}
    assert are_deduplicated([dialogue, runs]) == [False, True]
