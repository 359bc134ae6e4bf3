"""Synthetic dialogues: bit-identical for a seed, resumable, and true to their own ground truth."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechdlm_ext.io.manifest import read_jsonl
from speechdlm_ext.io.rttm import read_rttm, speech_by_speaker
from speechdlm_ext.metrics.intervals import bridge_silences, total_seconds
from speechdlm_ext.vad.energy import Energy

ROOT = Path(__file__).parents[2]
pytest.importorskip("espeakng_loader", reason="needs the extra [demo]: pip install '.[demo]'")


def make(
    folder: Path, options: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "data_prep" / "make_dialogues.py"), str(folder), *shlex.split(options)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)


def digest(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("dialogue*"))}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dialogues")
    done = make(folder, "--minutes 1 --dialogue-seconds 20 --seed 3 --num-workers 2")
    assert done.returncode == 0, done.stderr
    return folder


def test_files_and_manifest(corpus: Path) -> None:
    rows = read_jsonl(corpus / "manifest.jsonl")
    assert [row["id"] for row in rows] == ["dialogue-00000", "dialogue-00001", "dialogue-00002"]
    for row in rows:
        info = soundfile.info(row["audio_filepath"])
        assert (info.samplerate, info.channels, info.frames) == (16000, 2, 20 * 16000)
        assert row["duration"] == 20 and row["channels"] == 2 and row["speakers"][0] != row["speakers"][1]


def test_same_seed_same_bits_for_any_workers_and_memory(corpus: Path, tmp_path: Path) -> None:
    # MALLOC_PERTURB_ fills fresh memory: a synthesiser that reads what it never wrote would sound different.
    options = "--minutes 1 --dialogue-seconds 20 --seed 3 --num-workers 1"
    done = make(tmp_path, options, environment={"MALLOC_PERTURB_": "119"})
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path) == digest(corpus)


def test_other_seed_is_another_dialogue(corpus: Path, tmp_path: Path) -> None:
    assert make(tmp_path, "--minutes 0.3 --dialogue-seconds 20 --seed 4").returncode == 0
    assert (tmp_path / "dialogue-00000.wav").read_bytes() != (corpus / "dialogue-00000.wav").read_bytes()


def test_resume_keeps_what_is_whole_and_redoes_the_rest(corpus: Path, tmp_path: Path) -> None:
    options = "--minutes 1 --dialogue-seconds 20 --seed 3"
    for path in corpus.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    kept = tmp_path / "dialogue-00000.wav"
    cut = tmp_path / "dialogue-00001.wav"
    (tmp_path / "dialogue-00002.json").unlink()
    cut.write_bytes(cut.read_bytes()[:1000])
    before = kept.stat().st_mtime_ns
    assert make(tmp_path, options).returncode == 0
    assert kept.stat().st_mtime_ns == before
    assert digest(tmp_path) == digest(corpus)
    # Other settings under the same names: made anew.
    assert make(tmp_path, "--minutes 1 --dialogue-seconds 20 --seed 5").returncode == 0
    assert kept.read_bytes() != (corpus / kept.name).read_bytes()


def test_segmentation_is_where_the_audio_is(corpus: Path) -> None:
    """Level inside the RTTM's segments and outside of them, measured from the files alone."""
    turns = read_rttm(corpus / "dialogues.rttm")
    assert {turn.recording for turn in turns} == {f"dialogue-0000{n}" for n in range(3)}
    for row in read_jsonl(corpus / "manifest.jsonl"):
        wave, rate = soundfile.read(row["audio_filepath"])
        for channel in (0, 1):
            inside = np.zeros(len(wave), bool)
            for turn in turns:
                if turn.recording == row["id"] and turn.channel == channel + 1:
                    assert turn.speaker == row["speakers"][channel]
                    inside[round(turn.start * rate) : round(turn.end * rate)] = True
            power = wave[:, channel] ** 2
            speech, noise = 10 * np.log10(power[inside].mean()), 10 * np.log10(power[~inside].mean())
            assert -32 < speech < -20
            assert -76 < noise < -55  # the drawn floor of -72 to -60 dB, and faint tails of words
            assert 0.1 < inside.mean() < 0.9


def test_noise_floors_and_voices_differ_between_channels(corpus: Path) -> None:
    record = json.loads((corpus / "dialogue-00000.json").read_text(encoding="utf-8"))
    assert record["noise_levels"][0] != record["noise_levels"][1]
    silence = record["speech"]
    wave, rate = soundfile.read(corpus / "dialogue-00000.wav")
    for channel in (0, 1):
        quiet = np.ones(len(wave), bool)
        for start, end in silence[channel]:
            quiet[max(0, round((start - 0.1) * rate)) : round((end + 0.1) * rate)] = False
        level = 10 * np.log10(np.mean(wave[quiet, channel] ** 2))
        assert level == pytest.approx(record["noise_levels"][channel], abs=1.0)


def test_missing_extra_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "espeakng_loader.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    done = make(tmp_path / "out", environment={"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])})
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "pip install '.[demo]'" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad", ("--minutes -1", "--dialogue-seconds 1", "--speech /no/such/folder"))
def test_bad_options_are_one_line(tmp_path: Path, bad: str) -> None:
    done = make(tmp_path / "out", bad)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_recordings_as_speakers(data: Path, tmp_path: Path) -> None:
    folder = data / "speech" / "librispeech_test_other"
    done = make(tmp_path, f"--speech {shlex.quote(str(folder))} --minutes 0.5 --dialogue-seconds 30 --seed 1")
    assert done.returncode == 0, done.stderr
    (row,) = read_jsonl(tmp_path / "manifest.jsonl")
    known = {path.name.split("-")[0] for path in folder.glob("*.ogg")}
    assert set(row["speakers"]) < known
    speech = speech_by_speaker(read_rttm(tmp_path / "dialogues.rttm"))[row["id"]]
    assert all(2 < total_seconds(parts) < 28 for parts in speech.values()) and len(speech) == 2
    wave, _ = soundfile.read(row["audio_filepath"])
    assert np.abs(wave).max() < 1.0


def test_energy_finds_the_boundaries(corpus: Path) -> None:
    """Nine in ten boundaries of the true inter-pausal units are found within 100 ms, from the sound alone."""
    speech = speech_by_speaker(read_rttm(corpus / "dialogues.rttm"))
    near = []
    for row in read_jsonl(corpus / "manifest.jsonl"):
        wave, rate = soundfile.read(row["audio_filepath"])
        for channel, speaker in enumerate(row["speakers"]):
            true = bridge_silences(speech[row["id"]].get(speaker, []), 0.2)
            found = bridge_silences(Energy().detect(wave[:, channel], rate)[0], 0.2)
            times = np.array(found).reshape(-1)
            near += [np.abs(times - time).min() < 0.1 for stretch in true for time in stretch]
    assert len(near) > 40 and np.mean(near) > 0.9


def test_old_option_names_still_work(corpus: Path, tmp_path: Path) -> None:
    assert make(tmp_path, "--minutes 1 --conversation-seconds 20 --seed 3 --workers 2").returncode == 0
    assert digest(tmp_path) == digest(corpus)
