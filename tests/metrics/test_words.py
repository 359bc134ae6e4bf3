"""Words: normalisation, error rates by hand, real recognition of a short recording, CTC decoding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from speechdlm_ext.audio import read_audio
from speechdlm_ext.errors import InputError
from speechdlm_ext.metrics.recognisers import build_recogniser, greedy_text, transcribe_stretches
from speechdlm_ext.metrics.words import error_rates, normalise, talk_figures

pytest.importorskip("jiwer")


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("It’s NEVER been—surpassed, has it?", "it's never been surpassed has it"),
        ("uh-huh [laughter] <unk> ++noise++ 'tis  'quoted'", "uh huh tis quoted"),
        ("ﬁne Ünïted 3.5", "fine ünïted 3 5"),
        ("…!?", ""),
    ),
)
def test_normalisation(text: str, expected: str) -> None:
    assert normalise(text) == expected == normalise(expected)


def test_error_rates_by_hand() -> None:
    rates = error_rates(["a b c", "D, e.", "f", ""], ["a x c d", "", "f", "g h"])
    words = rates["words"]
    assert (words["substitutions"], words["insertions"], words["deletions"], words["hits"]) == (1, 3, 2, 3)
    assert words["corpus"] == 1.0 and words["median"] == pytest.approx(2 / 3)  # of 2/3, 1 and 0
    assert words["reference"] == 6 and rates["utterances"] == 4 and rates["reason"] is None
    assert rates["characters"]["deletions"] == 3 and "lower case" in rates["normalisation"]
    nothing = error_rates([""], ["so"])
    assert nothing["words"]["corpus"] is None and nothing["words"]["insertions"] == 1 and nothing["reason"]
    assert error_rates([], [])["words"]["median"] is None
    with pytest.raises(InputError, match="2 references and 1"):
        error_rates(["a", "b"], ["a"])


def test_talk() -> None:
    figures = talk_figures(["Um well [laughter] yes", "mhm"], minutes=2.0, speech_minutes=0.5)
    assert figures["words"] == 4 and figures["words_per_minute"] == 2 and figures["words_per_minute_of_speech"] == 8
    assert figures["filler_share"] == 0.5 and figures["laughter_per_minute"] == 0.5
    silent = talk_figures([], 1.0, 0.0)
    assert silent["filler_share"] is None and silent["reason"] == "no words were understood"
    json.dumps([figures, silent, talk_figures([], 0, 0)], allow_nan=False)


def test_real_recognition(shared: Path) -> None:
    pytest.importorskip("pocketsphinx")
    wave, _ = read_audio(shared / "speech" / "ljspeech" / "LJ001-0008.flac", 16000, channels=1)
    recogniser = build_recogniser("pocketsphinx")
    assert build_recogniser("pocketsphinx") is recogniser
    said = transcribe_stretches(recogniser, wave[0].numpy(), [(0.0, 1.8)])
    rates = error_rates(["has never been surpassed."], [said[0]["text"]])
    assert rates["words"]["hits"] >= 3 and rates["words"]["corpus"] <= 0.5 and rates["characters"]["corpus"] < 0.3
    assert recogniser.transcribe(np.zeros(100, np.float32)) == ""


def test_greedy_decoding() -> None:
    labels = ("-", "|", "A", "B")
    frames = [2, 2, 0, 2, 3, 1, 1, 0, 3, 3, 0]
    emissions = torch.nn.functional.one_hot(torch.tensor(frames), 4).float()
    assert greedy_text(emissions, labels) == "AAB B"
    assert greedy_text(emissions[:0], labels) == ""


def test_recognisers_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such CTC bundle; there are .*WAV2VEC2_ASR_BASE_960H"):
        build_recogniser("torchaudio:NONE")
    with pytest.raises(InputError, match="weights of WAV2VEC2_ASR_BASE_960H are not there"):
        build_recogniser(f"torchaudio:WAV2VEC2_ASR_BASE_960H={tmp_path / 'none.pth'}")
    torch.save({"other.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not the weights of WAV2VEC2_ASR_BASE_960H"):
        build_recogniser(f"torchaudio:WAV2VEC2_ASR_BASE_960H={tmp_path / 'other.pth'}")
    for spec in ("", "whisper", "torchaudio", "pocketsphinx:large"):
        with pytest.raises(InputError, match="--asr"):
            build_recogniser(spec)
