"""Mixes of speech and noise: labels say where the speech is, and speakers of validation are not trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechdlm_ext.errors import InputError
from speechdlm_ext.synthetic.noise_mixes import MixOptions, make_mixes, mix


def test_labels_are_where_the_speech_is() -> None:
    burst = np.sin(np.arange(24000) / 6).astype(np.float32)
    for seed in range(12):
        mixed, labels = mix([(burst, [(0.0, 1.5)])], np.random.default_rng(seed), MixOptions(seconds=4, lowest_snr=20))
        assert len(labels) == 200 and len(mixed) == 64000 and np.abs(mixed).max() <= 1
        assert 15 <= labels.sum() <= 77  # 1.5 s, or what is cut of it
        assert np.count_nonzero(np.diff(labels.astype(int))) <= 2
        power = np.square(mixed).reshape(200, 320).mean(1)
        assert power[labels].mean() > 5 * power[~labels].mean()  # a room goes on after it


def test_rows_fit_their_files(data: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "clean.json"
    files = sorted((data / "speech" / "librispeech_test_other").iterdir())[:2]
    rows = [{"audio_filepath": str(path), "speaker": str(number)} for number, path in enumerate(files)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert make_mixes(tmp_path / "out", MixOptions(3, 2, 2.0, manifest, "energy")) == {"train": 3, "valid": 2}
    assert (tmp_path / "out" / "labels.txt").read_text() == "0\n1\n"
    for split in ("train", "valid"):
        for line in (tmp_path / "out" / f"{split}.json").read_text().splitlines():
            row = json.loads(line)
            assert soundfile.info(row["audio_filepath"]).frames == 32000 == row["duration"] * 16000
            assert len(row["label"].split()) == 100 and set(row["label"].split()) == {"0", "1"}
    with pytest.raises(InputError, match="--seconds"):
        make_mixes(tmp_path, MixOptions(seconds=0))


@pytest.mark.commands
def test_the_command_with_a_detector(data: Path, tmp_path: Path, run_loaded: Any, checkout: Path) -> None:
    clean = tmp_path / "clean.json"
    rows = [{"audio_filepath": str(data / "speech/ljspeech/LJ001-0002.flac"), "speaker": "lj"}]
    clean.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["python", checkout / "data_prep/make_noise_mixes.py", tmp_path / "out", "--mixes", "1", "--valid-mixes"]
    words += ["1", "--seconds", "1", "--recordings", clean, "--vad"]
    run_loaded([*words, "energy"])
    assert (tmp_path / "out" / "train.json").read_text().count("\n") == 1
    refused = run_loaded([*words, "ears"], check=False)
    assert refused.returncode == 2 and "--vad ears: no such detector" in refused.stderr.splitlines()[-1]
