"""The corpus of digits: strings and labels that agree, held-out speakers that training never has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechdlm_ext.errors import InputError
from speechdlm_ext.synthetic.digits import WORDS, DigitOptions, cut_digits, make_digits

pytestmark = pytest.mark.commands  # programs that speak

RECORDED = {"george_09.ogg": "five four one seven four", "lucas_02.ogg": "three eight seven eight one"}


@pytest.fixture(scope="module")
def corpus(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("digits")
    rows = [
        {"audio_filepath": str(data / "speech" / "fsdd_strings" / name), "text": text, "speaker": name.split("_")[0]}
        for name, text in RECORDED.items()
    ]
    (folder / "recordings.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out = (rows[-1]["speaker"],)
    make_digits(folder, DigitOptions(8, 2, folder / "recordings.json", held_out))
    names = [f"{place}{split}" for place in ("", "labels/") for split in ("train", "valid", "test")]
    return {name: [json.loads(line) for line in (folder / f"{name}.json").read_text().splitlines()] for name in names}


def test_labels_are_the_words_of_the_strings_where_they_are_spoken(corpus: dict[str, list[dict[str, Any]]]) -> None:
    for split in ("train", "valid", "test"):
        labels = corpus[f"labels/{split}"]
        for row in corpus[split]:
            wave, rate = soundfile.read(row["audio_filepath"])
            assert rate == 16000 and len(wave) == round(row["duration"] * rate)
            mine = [label for label in labels if label["audio_filepath"] == row["audio_filepath"]]
            assert " ".join(label["label"] for label in mine) == row["text"]
            power = np.square(wave)
            for label in mine:
                first, last = (round(t * rate) for t in (label["offset"], label["offset"] + label["duration"]))
                assert power[first:last].mean() > power.mean() / 100
                power[first:last] = 0
            assert power.mean() < np.square(wave).mean() / 20  # between the digits there is next to nothing


def test_held_out_speakers_are_only_tested(corpus: dict[str, list[dict[str, Any]]]) -> None:
    speakers = {split: {row["speaker"] for row in corpus[split]} for split in ("train", "valid", "test")}
    assert len(corpus["train"]) == 8 and len(corpus["valid"]) == 2
    assert "george" in speakers["train"] and len(speakers["train"]) > 1 and speakers["test"] == {"lucas"}
    assert not speakers["train"] & (speakers["valid"] | speakers["test"])


def test_a_string_of_another_number_of_digits_is_not_cut(tmp_path: Path) -> None:
    burst = np.sin(np.arange(8000) / 8).astype(np.float32)
    wave = np.concatenate([np.concatenate([np.zeros(4000, np.float32), burst]) for _ in range(3)])
    assert [last - first for first, last in cut_digits(wave, 3) or []] == pytest.approx([8000] * 3, abs=160)
    assert cut_digits(wave, 4) is None
    (tmp_path / "m.json").write_text('{"audio_filepath": "x.wav", "text": "hello", "speaker": "s"}\n')
    with pytest.raises(InputError, match=r"m\.json, line 1: expected digits"):
        make_digits(tmp_path, DigitOptions(recordings=tmp_path / "m.json"))
    assert WORDS[7] == "seven"


def test_one_voice_speaks_all_strings_at_one_level(tmp_path: Path) -> None:
    make_digits(tmp_path, DigitOptions(3, 2, voice="en-us"))

    def read(*names: str) -> list[dict[str, Any]]:
        return [json.loads(line) for name in names for line in (tmp_path / name).read_text().splitlines()]

    rows = read("train.json", "valid.json")
    assert {row["speaker"] for row in rows} == {"en-us"} and len({row["text"] for row in rows}) == 5
    for label in read("labels/train.json", "labels/valid.json"):
        wave, rate = soundfile.read(label["audio_filepath"])
        first, last = (round(t * rate) for t in (label["offset"], label["offset"] + label["duration"]))
        assert 10 * np.log10(np.mean(wave[first:last] ** 2)) == pytest.approx(-23, abs=0.5)
        quiet = 10 * np.log10(np.mean(wave[first - 1200 : first] ** 2))
        assert -63 < quiet < -57


def test_sentences_of_training_are_others_than_those_held_out(tmp_path: Path) -> None:
    make_digits(tmp_path, DigitOptions(24, 4, sentences=0.5, sample_rate=8000))

    def read(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    train, held_out = read("train.json"), read("sentences.json")
    sentences = [row for row in train if not set(row["text"].split()) <= set(WORDS)]
    assert 4 < len(sentences) < 20 and len(held_out) == len(read("valid.json")) == 4
    assert not {row["text"] for row in sentences} & {row["text"] for row in held_out}
    assert not {row["speaker"] for row in train} & {row["speaker"] for row in held_out}
    assert all(row["text"] == row["text"].lower() and len(row["text"].split()) > 4 for row in sentences + held_out)
    labelled = {row["audio_filepath"] for row in read("labels/train.json")}
    assert labelled == {row["audio_filepath"] for row in train} - {row["audio_filepath"] for row in sentences}
    with pytest.raises(InputError, match="0 to 1"):
        make_digits(tmp_path, DigitOptions(sentences=1.5))
