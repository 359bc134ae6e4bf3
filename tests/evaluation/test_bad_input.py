"""What goes with a corpus and does not fit it: named, with the dialogue; never a traceback, never passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.eval_set import PromptOptions
from speechdlm_ext.evaluation.evaluation import EvaluationOptions, evaluate
from speechdlm_ext.io.rttm import SpeakerTurn, write_rttm
from speechdlm_ext.metrics.bootstrap import BootstrapOptions
from speechdlm_ext.metrics.turn_taking import TurnTakingOptions, find_events_of_many
from speechdlm_ext.report.evaluation import PageOptions
from tests.helpers.talks import Stretches, take_turns, write_talk


def run(generated: Path, out: Path, **options: Any) -> dict[str, Any]:
    options = {"vad": "energy", "num_workers": 1, **options}
    settings = EvaluationOptions(generated, bootstrap=BootstrapOptions(10), **options)
    return evaluate(settings, out).result


def reasons(result: dict[str, Any]) -> dict[str, str]:
    return {line["dialogue"]: line["reason"] for line in result["skipped"]}


def units_of(talk: list[Stretches], seconds: float) -> dict[str, str]:
    row = {}
    for channel, stretches in zip(("unitA", "unitB"), talk, strict=True):
        units = [0] * round(50 * seconds)
        for start, end in stretches:
            units[round(50 * start) : round(50 * end)] = [
                1 + k // 3 % 9 for k in range(round(50 * end) - round(50 * start))
            ]
        row[channel] = " ".join(map(str, units))
    return row


def test_units_that_go_with_sound(tmp_path: Path) -> None:
    rows = []
    for number in range(3):
        write_talk(tmp_path / "made" / f"t{number}.wav", take_turns(number, 20.0), 20)
        seconds = 20.0 if number < 2 else 15.0
        rows.append({"audio": f"t{number}", **units_of(take_turns(number, seconds), seconds)})
    (tmp_path / "u.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    result = run(tmp_path / "made", tmp_path / "out", units=tmp_path / "u.jsonl")
    assert result["generated"]["conversations"] == 3 and result["generated"]["units"]["A"]["frames"] == 1000
    assert "has no units of it" in reasons(result)["t0"]
    assert reasons(result)["t2"] == "units of 15.00 s, audio of 20.00 s"
    (tmp_path / "whole.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    by_units = run(tmp_path / "made", tmp_path / "out", vad="units", silence_units=[0], units=tmp_path / "whole.jsonl")
    alike = find_events_of_many([(take_turns(number, 20.0), 20.0) for number in range(2)])
    assert by_units["generated"]["ipu"]["n"] == len(alike.ipus) and "sound" in by_units["generated"]
    assert by_units["generated"]["conversations"] == 2 and list(reasons(by_units)) == ["t2"]
    with pytest.raises(InputError, match="no units; --vad units needs unit files, or --units"):
        run(tmp_path / "made", tmp_path / "out", vad="units", units=tmp_path / "u.jsonl")
    (tmp_path / "other.jsonl").write_text(json.dumps({**rows[0], "audio": "x"}) + "\n")
    with pytest.raises(InputError, match=r"other.jsonl has no units of .*made: expected a row t0, found x"):
        run(tmp_path / "made", tmp_path / "out", units=tmp_path / "other.jsonl")
    with pytest.raises(InputError, match="pass --reference, too"):
        run(tmp_path / "made", tmp_path / "out", reference_units=tmp_path / "u.jsonl")
    with pytest.raises(InputError, match="pass unit files, or --units FILE"):
        run(tmp_path / "made", tmp_path / "out", checkpoint=tmp_path / "none.pt")
    (tmp_path / "rate.jsonl").write_text(
        json.dumps({**rows[0], "frame_rate": "fast"}) + "\n" + json.dumps(rows[1]) + "\n"
    )
    found = reasons(run(tmp_path / "rate.jsonl", tmp_path / "out", vad="units", silence_units=[0]))
    assert found == {"t0": "expected a frame_rate in Hz, more than 0, found 'fast'"}


def test_speech_beyond_the_end_is_named(tmp_path: Path) -> None:
    write_talk(tmp_path / "made" / "a.wav", take_turns(1), 40)
    turns = [SpeakerTurn("a", 1, 1, 2, "anna"), SpeakerTurn("a", 2, 35, 300, "ben")]
    write_rttm(tmp_path / "made" / "a.rttm", turns)
    result = run(tmp_path / "made", tmp_path / "out", vad="rttm")
    assert result["generated"]["speech_share"] == [0.05, 0.125]
    assert reasons(result) == {
        "a": "speech is given until 335.00 s, beyond the end of its audio, 40.00 s, where it is cut"
    }


def test_rows_of_prompts_that_will_not_do(tmp_path: Path) -> None:
    wrong = {"start": "soon", "prompt_frames": float("nan"), "frame_rate": -1, "prompt_seconds": True}
    rows: list[dict[str, Any]] = [{"audio": "good", "start": 1.0, "prompt_frames": 100}]
    rows += [{**rows[0], "audio": key, key: value} for key, value in wrong.items()]
    for name in ("good", *wrong, "rowless"):
        write_talk(tmp_path / "made" / f"{name}.wav", take_turns(1, 10.0), 10)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = PromptOptions(tmp_path / "p.jsonl", continuation_seconds=5)
    result = run(tmp_path / "made", tmp_path / "out", reference=tmp_path / "made", prompts=prompts)
    found = reasons(result)
    assert set(found) == {*wrong, "rowless"} and "has no row for it" in found["rowless"]
    for key, value in wrong.items():
        assert found[key].startswith(f"its row has {value!r} as {key}: expected a number, 0")
    rest = sorted(found)
    assert result["unmatched"] == {"generated": rest, "reference": rest}
    assert result["generated"]["conversations"] == 1


def test_settings_that_will_not_do() -> None:
    for options, found in (
        ({"turn_taking": TurnTakingOptions(ipu_silence=float("nan"))}, "--ipu-silence nan: expected 0 or more"),
        ({"turn_taking": TurnTakingOptions(max_backchannel=-1)}, "--max-backchannel -1: expected 0 or more"),
        ({"frame_rate": 0.0}, "--frame-rate 0: expected more than 0"),
        ({"bootstrap": BootstrapOptions(0)}, "--resamples 0, --seed 1: expected 1 or more"),
        ({"bootstrap": BootstrapOptions(seed=-3)}, "--seed -3: expected 1 or more, and 0 or more"),
    ):
        with pytest.raises(InputError, match=found):
            EvaluationOptions(Path("made"), **options)
    for room in (float("nan"), -1.0, float("inf")):
        with pytest.raises(InputError, match="--embed-megabytes"):
            PageOptions(embed_megabytes=room)
