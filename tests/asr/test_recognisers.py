"""Recognisers: bundles against torchaudio itself, long speech in pieces, files that change or are missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.asr import (
    Recogniser,
    RecogniserOptions,
    Transcript,
    Word,
    build_recogniser,
    describe_recogniser,
    transcribe_intervals,
)
from speechdlm_ext.asr.chunks import cut_at_silences
from speechdlm_ext.asr.ctc import TorchaudioCTC, ctc_words
from speechdlm_ext.asr.ctc_decoding import BeamOptions
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.metrics.words import error_rates
from tests.helpers.bundles import LABELS, publish, write_weights

WAVE = np.sin(np.arange(40000) ** 1.3 / 40).astype(np.float32) * 0.3 + 0.05


def text_by_hand(scores: torch.Tensor) -> str:
    """CTC's rule, frame by frame: a label counts where it differs from the frame before, unless it is the blank."""
    text, before = "", 0
    for frame in scores:
        best = int(frame.argmax())
        if best not in (0, before):
            text += LABELS[best - 1]
        before = best
    return " ".join(text.replace("|", " ").split())


@pytest.mark.parametrize("normalise", (False, True))
def test_bundles_hear_what_torchaudio_hears(normalise: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published weights have outputs that no bundle's model has; torchaudio leaves them out, and so must we."""
    bundle = publish(monkeypatch, tmp_path, normalise)
    with torch.no_grad():
        expected = bundle.get_model()(torch.from_numpy(WAVE)[None])[0][0]
    recogniser = build_recogniser("torchaudio:SMALL_ASR")
    assert isinstance(recogniser, TorchaudioCTC) and recogniser.labels == bundle.get_labels()
    found = recogniser.emissions(torch.from_numpy(WAVE)[None], [len(WAVE)])[0]
    assert torch.allclose(found, expected, atol=1e-5) and float(expected.std()) > 0.05
    batch = torch.nn.functional.pad(torch.from_numpy(WAVE), (0, 8000)).expand(2, -1)
    assert recogniser.transcribe(batch, [len(WAVE), 48000])[0] == recogniser.recognise(WAVE)
    text = recogniser.recognise(WAVE).text
    assert text == text_by_hand(expected) and len(set(text)) > 2
    assert recogniser.recognise(WAVE[:1500]).text == "" and not recogniser.supports_laughter
    torch.save(bundle.get_model().state_dict(), tmp_path / "own.pth")
    if not normalise:  # whose model is wrapped
        own = build_recogniser(f"torchaudio:SMALL_ASR={tmp_path / 'own.pth'}")
        assert own is not recogniser and own.recognise(WAVE).text == text


def test_long_speech_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bursts of 0.7 s and silences of 0.3 s: the model hears at most 2 s at once, and no burst is cut."""
    publish(monkeypatch, tmp_path)
    recogniser = build_recogniser(RecogniserOptions("torchaudio:SMALL_ASR", 2.0))
    assert isinstance(recogniser, TorchaudioCTC)
    heard: list[int] = []
    recogniser.model.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0].shape[1]))
    rng = np.random.default_rng(0)
    bursts = np.zeros((12, 16000), np.float32)
    bursts[:, :11200] = 0.3 * rng.standard_normal((12, 11200))
    wave = bursts.reshape(-1)
    text, words = recogniser.recognise(wave)
    assert sum(heard) == len(wave) and max(heard) <= 32000 and len(heard) <= 12
    bounds = np.cumsum([0, *heard])
    assert all(bound % 16000 >= 11200 for bound in bounds[1:-1])
    with torch.no_grad():
        parts = [recogniser.model(torch.from_numpy(wave[a:b])[None])[0][0] for a, b in pairwise(bounds)]
    assert text == " ".join(filter(None, map(text_by_hand, parts))) and text
    assert " ".join(word.text for word in words) == text and words[-1].start > 10
    assert all(0 <= one.start < one.end <= other.start + 1e-9 for one, other in pairwise(words))
    said = transcribe_intervals(recogniser, wave, [(0.0, 5.0), (7.0, 7.7)])
    assert " ".join(part["text"] for part in said[:-1]) and said[-1]["start"] == 7.0
    assert said[0]["start"] == 0 and all(part["end"] - part["start"] <= 2 for part in said)
    assert [one["end"] for one in said[:-2]] == [other["start"] for other in said[1:-1]]


@pytest.mark.commands
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60000), st.floats(1, 3), st.integers(0, 9))
def test_pieces_are_the_wave_and_none_is_too_long(samples: int, longest: float, seed: int) -> None:
    wave = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    pieces = cut_at_silences(wave, 1000, longest)
    assert pieces[0][0] == 0 and pieces[-1][1] == samples
    assert all(one[1] == other[0] for one, other in pairwise(pieces))
    lengths = [last - first for first, last in pieces]
    most = round(1000 * longest)
    assert max(lengths) <= most and (len(lengths) == 1 or min(lengths) >= most // 4)
    for first, last in pieces[:-1]:  # nowhere near is it quieter, by brute force
        sums = [np.sum(wave[k - 100 : k + 100].astype(float) ** 2)
                for k in range(first + most // 2 + 100, min(first + most, samples - most // 4) - 99, 10)]  # fmt: skip
        assert np.sum(wave[last - 100 : last + 100].astype(float) ** 2) == pytest.approx(min(sums), rel=1e-6)


def test_margins_stop_halfway_to_the_next_speech() -> None:
    """So that no word is heard twice."""

    class Bounds(Recogniser):
        @classmethod
        def from_spec(cls, model: str, device: str | None = None, language: str = "", prompt: str = "") -> Bounds:
            return cls()

        def transcribe(self, waves: torch.Tensor, lengths: Sequence[int]) -> list[Transcript]:
            ends = [(row[0], row[length - 1] + 1) for row, length in zip(waves, lengths, strict=True)]
            return [Transcript(f"{first:.0f}-{last:.0f}", (Word("one", 0.1, 0.2),)) for first, last in ends]

    wave = np.arange(32000, dtype=np.float32)
    said = transcribe_intervals(Bounds(), wave, [(0.05, 0.5), (0.6, 1.0), (1.5, 1.95)])
    assert [part["text"] for part in said] == ["0-8800", "8800-17600", "22400-32000"]
    assert [(part["start"], part["end"]) for part in said] == [(0.05, 0.5), (0.6, 1.0), (1.5, 1.95)]
    assert [part["words"] for part in said] == [[["one", 0.1, 0.2]], [["one", 0.65, 0.75]], [["one", 1.5, 1.6]]]


def test_weights_that_change_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, tmp_path)
    first = build_recogniser("torchaudio:SMALL_ASR")
    assert build_recogniser("torchaudio:SMALL_ASR") is first
    write_weights(tmp_path / "hub" / "checkpoints" / "small_asr.pth", 2)
    other = build_recogniser("torchaudio:SMALL_ASR")
    assert other is not first and other.recognise(WAVE) != first.recognise(WAVE)


@pytest.mark.commands
def test_real_recognition(data: Path) -> None:
    pytest.importorskip("pocketsphinx")
    wave, _ = read_audio(data / "speech" / "ljspeech" / "LJ001-0008.flac", 16000, channels=1)
    recogniser = build_recogniser("pocketsphinx")
    assert build_recogniser("pocketsphinx") is recogniser
    said = transcribe_intervals(recogniser, wave[0].numpy(), [(0.0, 1.8)])
    rates = error_rates(["has never been surpassed."], [said[0]["text"]])
    assert rates["words"]["hits"] >= 3 and rates["words"]["corpus"] <= 0.5 and rates["characters"]["corpus"] < 0.3
    assert recogniser.recognise(np.zeros(100, np.float32)) == ("", ())
    words = said[0]["words"]
    assert [word for word, _, _ in words] == said[0]["text"].split() and 0.2 < words[-1][2] <= 1.95
    assert all(one[1] < one[2] <= other[1] + 0.011 for one, other in pairwise(words))


@pytest.mark.commands
def test_pocketsphinx_does_not_depend_on_what_it_has_recognised_before(data: Path) -> None:
    """Or the texts of a manifest's shards would not be those of one run."""
    pytest.importorskip("pocketsphinx")
    wave = read_audio(data / "speech" / "jfk" / "jfk.flac", 16000, channels=1)[0][0, :32000].numpy()
    recogniser = build_recogniser("pocketsphinx")
    first = recogniser.recognise(wave)
    assert first.text and recogniser.recognise(wave) == first


def test_a_grammar_is_all_that_is_recognised(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx")
    grammar = tmp_path / "g.jsgf"
    grammar.write_text("#JSGF V1.0;\ngrammar g;\npublic <s> = (has | never | been | surpassed | always)+;\n")
    recogniser = build_recogniser(f"pocketsphinx:{grammar}")
    wave, _ = read_audio(data / "speech" / "ljspeech" / "LJ001-0008.flac", 16000, channels=1)
    assert recogniser.recognise(wave[0].numpy()).text == "has never been surpassed"
    grammar.write_text(grammar.read_text().replace("always", "surpasst"))  # changed, and with a word that is none
    for spec in (str(grammar), str(tmp_path / "none.jsgf")):
        with pytest.raises(InputError, match=r"\.jsgf.* \(JSGF\)"):
            build_recogniser(f"pocketsphinx:{spec}")


def test_greedy_decoding() -> None:
    labels = ("-", "|", "A", "B", "")
    frames = [0, 2, 2, 0, 2, 3, 1, 1, 0, 3, 4, 3, 0]
    emissions = torch.nn.functional.one_hot(torch.tensor(frames), 5).float()
    assert ctc_words(emissions, labels, 0.5) == [("AAB", 0.5, 3.0), ("BB", 4.5, 6.0)]
    assert ctc_words(emissions[:0], labels, 0.5) == []


@pytest.mark.parametrize("kind", ["torchaudio", "ctc"])
def test_beam_search_over_words(kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only words of the list come out; it belongs to what the results depend on."""
    words = tmp_path / "words.txt"
    words.write_text("A\nAT  A T |\nTEA\n" if kind == "torchaudio" else "sea\nseas  s e a s |\ntea\n")
    if kind == "torchaudio":
        publish(monkeypatch, tmp_path)
        spec, wave = "torchaudio:SMALL_ASR", WAVE
    else:
        spec = f"ctc:{data / 'reference/nemo/ctc_char.nemo'}"
        wave = read_audio(data / "speech" / "ljspeech" / "LJ001-0008.flac", 16000, channels=1)[0][0].numpy()
    beam = BeamOptions(lexicon=str(words), beam_size=20, word_score=20.0)
    plain, search = RecogniserOptions(spec), RecogniserOptions(spec, beam=beam)
    said = build_recogniser(search).recognise(wave)
    assert said.text and set(said.text.split()) <= {line.split()[0] for line in words.read_text().splitlines()}
    assert [word.text for word in said.words] == said.text.split()
    assert all(one.start < one.end <= other.start + 1e-6 for one, other in pairwise(said.words))
    assert str(words) in str(describe_recogniser(search)) and describe_recogniser(plain) != describe_recogniser(search)
    with pytest.raises(InputError, match="the recogniser pocketsphinx has no beam search"):
        build_recogniser(RecogniserOptions("pocketsphinx", beam=beam))
    for lexicon, message in (("none.txt", "none.txt: no list of words"), (os.devnull, "no words in it")):
        with pytest.raises(InputError, match=message):
            build_recogniser(RecogniserOptions(spec, beam=BeamOptions(lexicon=lexicon)))


@pytest.mark.commands
def test_recognisers_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such CTC bundle; expected one of .*WAV2VEC2_ASR_BASE_960H") as unknown:
        build_recogniser("torchaudio:NONE")
    assert "MMS_FA" not in str(unknown.value)  # aligns, and has no sign between words
    with pytest.raises(InputError, match="no such CTC bundle"):
        build_recogniser("torchaudio:MMS_FA")
    with pytest.raises(InputError, match="weights of WAV2VEC2_ASR_BASE_960H are missing; nothing is downloaded"):
        build_recogniser(f"torchaudio:WAV2VEC2_ASR_BASE_960H={tmp_path / 'none.pth'}")
    torch.save({"other.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not the weights of WAV2VEC2_ASR_BASE_960H"):
        build_recogniser(f"torchaudio:WAV2VEC2_ASR_BASE_960H={tmp_path / 'other.pth'}")
    for spec in ("", "whisper", "torchaudio", "fairseq", "transformers"):
        with pytest.raises(InputError, match="--asr"):
            build_recogniser(spec)
    for options in (RecogniserOptions("pocketsphinx", language="fr"), RecogniserOptions("fairseq:x.pt", prompt="Dr")):
        with pytest.raises(InputError, match="takes none"):
            build_recogniser(options)
    for seconds in (0.5, float("nan"), float("inf")):
        with pytest.raises(InputError, match="--asr-chunk-seconds"):
            RecogniserOptions("pocketsphinx", seconds)
