"""Detectors against annotation: meetings that people annotated, and calls whose channels are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.corpus import read_corpus
from speechdlm_ext.evaluation.detection_accuracy import measure_detectors
from speechdlm_ext.io.rttm import SpeakerTurn, write_rttm
from tests.helpers.talks import take_turns, write_talk


@pytest.mark.commands
def test_meetings_as_annotated(data: Path) -> None:
    """AMI: no lower than was measured once (docs/evaluation.md)."""
    corpus = read_corpus(data / "speech" / "ami")
    figures = measure_detectors(corpus, ["silero", "silero:pad=0.2"], rttm=[data / "speech" / "ami.rttm"])
    published, padded = (figures[name]["collars"] for name in ("silero", "silero:pad=0.2"))
    assert published["0"]["f1"] > 0.8 and published["0"]["false_alarm"] < 0.02
    assert padded["0"]["f1"] > published["0"]["f1"] and padded["0.25"]["missed"] < published["0.25"]["missed"]
    assert figures["annotation"]["recordings"] == 2 and figures["annotation"]["per_minute"]["ipu"] > 3


def test_truth_against_itself_and_against_detectors(tmp_path: Path) -> None:
    """Two channels whose speakers are in the RTTM without channel numbers: the truth is right about them."""
    turns = []
    for number in range(2):
        talk = take_turns(number)
        write_talk(tmp_path / "talks" / f"{number}.wav", talk, 40)
        turns += [
            SpeakerTurn(str(number), 1, start, end - start, label)
            for label, own in zip(("zoe", "anna"), talk, strict=True)
            for start, end in own
        ]
    rttm = tmp_path / "talks.rttm"
    write_rttm(rttm, turns)
    figures = measure_detectors(read_corpus(tmp_path / "talks"), ["energy", f"rttm:{rttm}"])
    perfect, energy = figures[f"rttm:{rttm}"], figures["energy"]
    assert perfect["collars"]["0"]["f1"] == 1 and perfect["collars"]["0.25"]["detection_error_rate"] == 0
    assert perfect["per_minute"] == figures["annotation"]["per_minute"]
    assert energy["collars"]["0"]["f1"] > 0.97 and energy["collars"]["0.25"]["detection_error_rate"] == 0
    assert energy["per_minute"] == figures["annotation"]["per_minute"]


def test_the_command(tmp_path: Path, checkout: Path, run_loaded, data: Path) -> None:  # type: ignore[no-untyped-def]
    speech = data / "speech"
    command = ["python", checkout / "scripts/evaluate_detection.py", speech / "ami", "--rttm", speech / "ami.rttm"]
    done = run_loaded([*command, "--vad", "energy", "--json", tmp_path / "f.json"])
    head, _, annotation, energy = done.stdout.splitlines()
    assert head.startswith("| detector | F1 | missed |") and annotation.startswith("| annotation | – |")
    figures = json.loads((tmp_path / "f.json").read_text())
    assert f"{100 * figures['energy']['collars']['0']['f1']:.1f} %" in energy


def test_what_is_not_annotated_is_refused(tmp_path: Path) -> None:
    write_talk(tmp_path / "talks" / "a.wav", take_turns(1, 10), 10)
    write_rttm(tmp_path / "talks.rttm", [SpeakerTurn("b", 1, 1, 1, "zoe")])
    with pytest.raises(InputError, match="none of its 1 recordings is annotated"):
        measure_detectors(read_corpus(tmp_path / "talks"), ["energy"])
