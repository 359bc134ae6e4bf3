"""Evaluations from files to figures: known truth comes out, stopped runs go on, and bad input is named."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.eval_set import PromptOptions
from speechdlm_ext.evaluation.evaluation import RESUME_LOG, EvaluationOptions, evaluate, write_metrics
from speechdlm_ext.io.rttm import SpeakerTurn, read_rttm, write_rttm
from speechdlm_ext.metrics.bootstrap import BootstrapOptions
from speechdlm_ext.metrics.events import KINDS
from speechdlm_ext.metrics.summary import summarize
from speechdlm_ext.metrics.turn_taking import find_events_of_many
from speechdlm_ext.report.evaluation import page_corpora, write_page
from tests.helpers.talks import take_turns, write_talk

QUICK = BootstrapOptions(resamples=50)


def run(generated: Path, reference: Path | None, out: Path, **options: Any) -> dict[str, Any]:
    settings = {"vad": "energy", "num_workers": 1, "bootstrap": QUICK, **options}
    evaluation = evaluate(EvaluationOptions(generated, reference, **settings), out)
    json.dumps(evaluation.result, allow_nan=False)
    return evaluation.result


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five real dialogues with gaps of 0.3 s, and four generated ones with gaps of 0.8 s and longer turns."""
    folder = tmp_path_factory.mktemp("corpora")
    for number in range(5):
        write_talk(folder / "real" / f"talk{number}.wav", take_turns(number), 40, seed=number)
    for number in range(4):
        talk = take_turns(10 + number, turn=3.0, offset=0.8)
        write_talk(folder / "made" / f"talk{number}.wav", talk, 40, rate=16000, seed=number)
    return folder


@pytest.mark.commands
def test_figures_are_those_of_the_truth(corpora: Path, tmp_path: Path) -> None:
    result = run(corpora / "made", corpora / "real", tmp_path)
    for side, talks in (
        ("generated", [(take_turns(10 + n, turn=3.0, offset=0.8), 40.0) for n in range(4)]),
        ("reference", [(take_turns(n), 40.0) for n in range(5)]),
    ):
        truth = summarize(find_events_of_many(talks))
        for kind in KINDS.values():
            assert result[side][kind]["n"] == truth[kind]["n"], (side, kind)
            if truth[kind]["n"]:
                assert result[side][kind]["mean"] == pytest.approx(truth[kind]["mean"], abs=0.04)
        assert result[side]["speech_share"] == pytest.approx(truth["speech_share"], abs=0.02)
        assert result[side]["sound"]["B"]["snr"] == pytest.approx(50, abs=2)
    distance, halves = result["distance"], result["split_half"]
    assert distance["gap"]["wasserstein"] == pytest.approx(0.5, abs=0.03)
    assert distance["gap"]["wasserstein"] > 10 * halves["gap"]["wasserstein"]
    low, high = distance["gap"]["interval"]["mean"]
    assert low == pytest.approx(0.5, abs=0.05) and high == pytest.approx(0.5, abs=0.05)
    assert result["activity"]["method"] == "energy" and result["activity"]["frame_shift"] == 0.01
    assert result["unmatched"] == {"generated": [], "reference": ["talk4"]}
    assert result["skipped"] == []


@pytest.mark.commands
def test_the_files(corpora: Path, tmp_path: Path) -> None:
    evaluation = evaluate(EvaluationOptions(corpora / "made", corpora / "real", vad="energy", num_workers=1), tmp_path)
    files = write_metrics(evaluation, tmp_path)
    assert [path.name for path in files] == ["metrics.json", "metrics.csv"]
    result = json.loads(files[0].read_text())
    event = {"n", "per_minute", "seconds_per_minute", "mean", "median", "quantiles", "interval", "reason"}
    for side in ("generated", "reference"):
        assert all(set(result[side][kind]) == event for kind in KINDS.values())
    apart = {"per_minute", "seconds_per_minute", "mean", "median", "wasserstein", "interval", "reason"}
    assert all(set(result["distance"][kind]) == apart for kind in KINDS.values())
    with open(files[1], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["corpus"], row["dialogue"]) for row in rows[:3]] == [
        ("generated", "(all)"),
        ("reference", "(all)"),
        ("generated", "talk0"),
    ]
    assert len(rows) == 2 + 4 + 5 and {row["activity"] for row in rows} == {"energy"}
    assert sum(int(row["gap.n"]) for row in rows[2:6]) == int(rows[0]["gap.n"]) == result["generated"]["gap"]["n"]
    assert float(rows[0]["sound.B.snr"]) == pytest.approx(result["generated"]["sound"]["B"]["snr"])
    assert rows[2]["overlap.mean"] == "" and float(rows[2]["sound.A.level"]) < -20


@pytest.mark.commands
def test_a_run_that_was_stopped_goes_on(corpora: Path, tmp_path: Path) -> None:
    options = EvaluationOptions(corpora / "made", corpora / "real", vad="energy", num_workers=1, bootstrap=QUICK)
    seen: list[int] = []

    def stop_after(count: int) -> Any:
        def progress(items: Iterable[Any], total: int) -> Iterator[Any]:
            seen.append(total)
            for number, item in enumerate(items):
                if number == count:
                    raise KeyboardInterrupt
                yield item

        return progress

    with pytest.raises(KeyboardInterrupt):
        evaluate(options, tmp_path, stop_after(4))
    with open(tmp_path / RESUME_LOG, "a") as file:
        file.write('{"key": "reference/talk0", "val')  # cut off by the kill
    first = evaluate(options, tmp_path, stop_after(99)).result
    again = evaluate(options, tmp_path, stop_after(99)).result
    assert seen == [9, 5, 0] and first == again == evaluate(options, tmp_path / "anew").result
    by_two = EvaluationOptions(**{**vars(options), "num_workers": 2})
    assert evaluate(by_two, tmp_path / "by-two").result == first


def test_measurements_by_a_detector_with_options_are_kept(tmp_path: Path) -> None:
    write_talk(tmp_path / "talks" / "a.wav", take_turns(1), 40)
    write_rttm(tmp_path / "talks" / "a.rttm", [SpeakerTurn("a", 1, 1, 2, "anna"), SpeakerTurn("a", 2, 5, 2, "ben")])
    counted: list[int] = []

    def count(items: Iterable[Any], total: int) -> Iterable[Any]:
        counted.append(total)
        return items

    for _ in range(2):
        options = EvaluationOptions(tmp_path / "talks", vad="rttm", num_workers=1, bootstrap=QUICK)
        evaluate(options, tmp_path / "out", count)
    assert counted == [1, 0]


def test_a_dialogue_that_changed_is_measured_again(tmp_path: Path) -> None:
    write_talk(tmp_path / "made" / "a.wav", take_turns(1), 40)
    before = run(tmp_path / "made", None, tmp_path / "out")
    write_talk(tmp_path / "made" / "a.wav", take_turns(2, turn=3.0), 40)
    after = run(tmp_path / "made", None, tmp_path / "out")
    assert before["generated"]["ipu"]["n"] != after["generated"]["ipu"]["n"] and "distance" not in after


def test_silence_is_none_with_a_reason(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_talk(tmp_path / "silent" / f"{name}.wav", [[], []], 10)
        write_talk(tmp_path / "real" / f"{name}.wav", take_turns(1), 40)
    result = run(tmp_path / "silent", tmp_path / "real", tmp_path / "out", prompts=PromptOptions(prompt_seconds=2))
    assert result["generated"]["gap"]["per_minute"] is None
    assert result["generated"]["gap"]["reason"] == "no speech was found"
    assert result["distance"]["gap"]["reason"] == "generated: no speech was found"
    assert result["correlation"]["gap"]["r"] is None and result["correlation"]["gap"]["n"] == 0
    assert result["generated"]["sound"]["A"]["snr"] is None


def test_one_channel_and_one_file(tmp_path: Path) -> None:
    write_talk(tmp_path / "mono.wav", [[(1, 3), (4, 6)]], 10)
    result = run(tmp_path / "mono.wav", tmp_path / "mono.wav", tmp_path / "out")
    assert result["generated"]["pause"]["n"] == 1 and result["generated"]["overlap"]["reason"] == "one channel only"
    assert result["split_half"] == {"reason": "one dialogue cannot be split"}
    assert result["distance"]["pause"]["wasserstein"] == 0 and result["distance"]["pause"]["interval"] is None


def test_what_cannot_be_measured_is_named(tmp_path: Path) -> None:
    made = tmp_path / "made"
    write_talk(made / "good.wav", take_turns(1), 40)
    write_talk(made / "x-A.wav", [[(1, 2)]], 10)
    write_talk(made / "x-B.wav", [[(3, 4)]], 9)
    write_talk(made / "y-A.wav", [[(1, 2)]], 10, rate=16000)
    write_talk(made / "y-B.wav", [[(3, 4)]], 10, rate=8000)
    result = run(made, None, tmp_path / "out")
    ((line),) = result["skipped"]
    assert line["corpus"] == "generated" and line["dialogue"] == "x" and "unequal length" in line["reason"]
    assert result["generated"]["conversations"] == 2  # sides of different rates go together
    (made / "good.wav").unlink()
    for name in ("y-A", "y-B"):
        (made / f"{name}.wav").unlink()
    with pytest.raises(InputError, match="no dialogue could be measured; the first, x: channels of unequal length"):
        run(made, None, tmp_path / "out")


def test_people_of_an_rttm_file_are_channels(tmp_path: Path, data: Path) -> None:
    result = run(data / "speech" / "ami", None, tmp_path, vad="rttm")
    assert len(result["generated"]["speech_share"]) == 4 and result["generated"]["overlap"]["n"] > 10
    assert list(result["generated"]["sound"]) == ["A"]  # one microphone
    people: dict[str, set[str]] = {}
    for turn in read_rttm(data / "speech" / "ami.rttm"):
        people.setdefault(turn.recording, set()).add(turn.speaker)
    evaluation = evaluate(EvaluationOptions(data / "speech" / "ami.rttm", bootstrap=QUICK), tmp_path)
    write_page(tmp_path / "index.html", evaluation.result, page_corpora(evaluation))
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    parts = [json.loads(part) for part in re.findall(r'id="dialogue-\d+"[^>]*>(.*?)</script>', page)]
    assert {part["title"]: set(part["channels"]) for part in parts} == people
    alone = run(data / "speech" / "ami.rttm", None, tmp_path, vad=None)
    assert alone["activity"]["method"] == "rttm" and alone["generated"]["ipu"]["n"] == result["generated"]["ipu"]["n"]


@pytest.mark.commands
def test_prompts_by_name_and_by_table(tmp_path: Path) -> None:
    """Each real dialogue keeps its own pace; generated ones keep it, too, after a prompt of 10 s."""
    rows = []
    for number in range(6):
        turn = 1.0 + 0.4 * number
        write_talk(tmp_path / "real" / f"r{number}.wav", take_turns(number, 60, turn), 60)
        for sample in (1, 2):
            name = f"r{number}-s{sample}"
            write_talk(tmp_path / "made" / f"{name}.wav", take_turns(20 + 2 * number + sample, 50, turn), 50)
            rows.append({"audio": name, "recording": f"r{number}", "start": 5.0, "prompt_frames": 500})
    prompts = PromptOptions(prompt_seconds=10, continuation_seconds=30)
    result = run(tmp_path / "made", tmp_path / "real", tmp_path / "out", prompts=prompts)
    assert result["generated"]["minutes"] == pytest.approx(12 * 30 / 60)
    assert result["correlation"]["ipu"]["n"] == 6 and result["correlation"]["ipu"]["r"] > 0.8
    assert result["correlation"]["overlap"]["r"] is None and result["correlation"]["overlap"]["reason"]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    table = PromptOptions(tmp_path / "samples.jsonl", continuation_seconds=60)
    result = run(tmp_path / "made", tmp_path / "real", tmp_path / "out", prompts=table)
    assert result["generated"]["minutes"] == pytest.approx(11 * 40 / 60)  # to the end of the generated ones
    (line,) = result["skipped"]
    assert line["dialogue"] == "r0-s1" and "no row" in line["reason"]
    with pytest.raises(InputError, match="no generated dialogue has a real continuation"):
        run(tmp_path / "made", tmp_path / "made" / "r0-s1.wav", tmp_path / "out",
            prompts=PromptOptions(prompt_seconds=55))  # fmt: skip
    with pytest.raises(InputError, match="--reference"):
        run(tmp_path / "made", None, tmp_path / "out", prompts=prompts)


def test_units(tmp_path: Path) -> None:
    def line(name: str, talk: list[list[tuple[float, float]]], step: int) -> str:
        row: dict[str, Any] = {"audio": name}
        for channel, stretches in zip(("unitA", "unitB"), talk, strict=True):
            units = [0] * 2000
            for start, end in stretches:
                for place, frame in enumerate(range(round(start * 50), round(end * 50))):
                    units[frame] = 1 + place * step // 2 % 40
            row[channel] = " ".join(map(str, units))
        return json.dumps(row) + "\n"

    (tmp_path / "made.jsonl").write_text(line("a", take_turns(3), 3) + line("b", take_turns(4), 3))
    (tmp_path / "real.jsonl").write_text(line("a", take_turns(1), 1) + line("b", take_turns(2), 1))
    result = run(tmp_path / "made.jsonl", tmp_path / "real.jsonl", tmp_path / "out", vad=None)
    assert result["activity"]["method"] == "units" and tuple(result["activity"]["options"]["silence"]) == (0,)
    truth = find_events_of_many([(take_turns(n), 40.0) for n in (3, 4)])
    assert result["generated"]["gap"]["n"] == len(truth.gaps)
    assert result["generated"]["gap"]["mean"] == pytest.approx(truth.gaps.durations.mean(), abs=0.021)
    units = result["distance"]["units"]["all"]
    assert units["novelty"] > 0.9 and 0 < units["jensen_shannon"] < 0.1 and units["unit_rate"] > 5
    assert result["generated"]["units"]["A"]["bitrate"] > 0 and "sound" not in result["generated"]


def test_one_who_says_nothing_is_a_channel_all_the_same(tmp_path: Path) -> None:
    write_talk(tmp_path / "talks" / "a.wav", [[(0.5, 1.5)], []], 10)
    write_rttm(tmp_path / "talks" / "a.rttm", [SpeakerTurn("a", 1, 0.5, 1, "anna")])
    result = run(tmp_path / "talks", None, tmp_path / "out", vad="rttm")
    assert result["generated"]["speech_share"] == [0.1, 0] and result["generated"]["gap"]["per_minute"] == 0
    assert result["generated"]["sound"]["A"]["snr"] == pytest.approx(50, abs=2)


def test_speakers_of_an_rttm_file_are_the_channels_that_carry_them(tmp_path: Path) -> None:
    """Conventional RTTM has all speakers on channel 1: who is which channel is heard, whoever speaks first."""
    write_talk(tmp_path / "talks" / "a.wav", [[(3.0, 5.0)], [(0.5, 2.5), (6.0, 7.0)]], 10)
    turns = [SpeakerTurn("a", 1, start, end - start, who) for who, start, end in
             (("zoe", 0.5, 2.5), ("anna", 3.0, 5.0), ("zoe", 6.0, 7.0))]  # fmt: skip
    write_rttm(tmp_path / "talks" / "a.rttm", turns)
    wave, rate = soundfile.read(tmp_path / "talks" / "a.wav")
    for files in ("one of two channels", "two of one channel"):
        if files.startswith("two"):
            (tmp_path / "talks" / "a.wav").unlink()
            for side, samples in zip("AB", wave.T, strict=True):
                soundfile.write(tmp_path / "talks" / f"a-{side}.wav", samples, rate)
        options = EvaluationOptions(tmp_path / "talks", vad="rttm", num_workers=1, bootstrap=QUICK)
        evaluation = evaluate(options, tmp_path / files)
        assert evaluation.sets["generated"].measurements[0].speakers == ["anna", "zoe"]
        figures = evaluation.result["generated"]
        assert figures["speech_share"] == [pytest.approx(0.2), pytest.approx(0.3)]
        assert all(figures["sound"][name]["snr"] == pytest.approx(50, abs=2) for name in "AB")


def test_speakers_that_the_channels_do_not_tell_apart_are_refused(tmp_path: Path) -> None:
    both = [(0.5, 2.5), (3.0, 5.0)]
    write_talk(tmp_path / "talks" / "a.wav", [both, both], 10)
    write_talk(tmp_path / "talks" / "b.wav", [[], [(1.0, 2.0)]], 10)
    turns = [SpeakerTurn("a", 1, 0.5, 2, "zoe"), SpeakerTurn("a", 1, 3, 2, "anna"), SpeakerTurn("b", 1, 1, 1, "zoe")]
    write_rttm(tmp_path / "talks" / "a.rttm", turns)
    result = run(tmp_path / "talks", None, tmp_path / "out", vad="rttm")
    (line,) = result["skipped"]
    assert line["dialogue"] == "a" and "anna, zoe" in line["reason"] and '"speakers"' in line["reason"]
    assert result["generated"]["speech_share"] == [0, pytest.approx(0.1)]  # of b, where zoe is the second channel
    row = {"id": "a", "audio_filepath": "talks/a.wav", "speakers": ["zoe", "anna"]}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    options = {"vad": "rttm", "rttm": [tmp_path / "talks" / "a.rttm"]}
    assert run(tmp_path / "m.jsonl", None, tmp_path / "out", **options)["generated"]["speech_share"] == [0.2, 0.2]
    (tmp_path / "m.jsonl").write_text(json.dumps({**row, "speakers": ["zoe", "ben"]}) + "\n")
    with pytest.raises(InputError, match=r"the manifest's speakers are \['zoe', 'ben'\]"):
        run(tmp_path / "m.jsonl", None, tmp_path / "out", **options)


def test_names_of_any_bytes(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    write_talk(tmp_path / "a.wav", take_turns(1), 40)
    for name in (b"bad\xff.wav", "ö <b>.wav".encode()):
        os.rename(tmp_path / "a.wav", os.path.join(os.fsencode(tmp_path), b"made", name))
        write_talk(tmp_path / "a.wav", take_turns(2), 40)
    options = EvaluationOptions(tmp_path / "made", vad="energy", num_workers=1, bootstrap=QUICK)
    evaluation = evaluate(options, tmp_path / "out")
    write_page(tmp_path / "out" / "index.html", evaluation.result, page_corpora(evaluation))
    for path in (*write_metrics(evaluation, tmp_path / "out"), tmp_path / "out" / "index.html"):
        path.read_text(encoding="utf-8")
    assert evaluation.result["generated"]["conversations"] == 2
    assert run(tmp_path / "made", None, tmp_path / "out")["generated"] == evaluation.result["generated"]


def test_negative_durations_are_refused(tmp_path: Path) -> None:
    write_talk(tmp_path / "talks" / "a.wav", take_turns(1), 40)
    write_rttm(tmp_path / "talks" / "a.rttm", [SpeakerTurn("a", 1, 0.5, 1, "anna")])
    path = tmp_path / "talks" / "a.rttm"
    path.write_text(path.read_text().replace(" 1.0000 ", " -1.0000 "))
    with pytest.raises(InputError, match="line 1: start and duration must be 0 or more"):
        run(tmp_path / "talks", None, tmp_path / "out", vad="rttm")
