"""Manifests of speech, and batches of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from speechdlm_ext.asr.text_tokenizer import CharacterTokenizer
from speechdlm_ext.data.speech_dataset import (
    SpeechDataset,
    Utterance,
    encode_texts,
    needed_frames,
    read_utterances,
    within,
)
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio, resample


@pytest.fixture
def sentence(data: Path) -> Path:
    return data / "speech/ljspeech/LJ001-0002.flac"


def manifest(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_manifest_of_nemos(sentence: Path, tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/a.flac").write_bytes(sentence.read_bytes())
    path = manifest(
        tmp_path / "a.json",
        {"audio_filepath": "audio/a.flac", "text": "in", "lang": "en"},
        {"audio_filepath": str(sentence), "offset": 0.5, "duration": 1, "text": "being", "channel": 0},
        {"audio_filepath": "gone.wav", "_skipme": True},
    )
    first, second = read_utterances(path, "text")
    assert first.path == str(tmp_path / "audio/a.flac") and first.duration == pytest.approx(30393 / 16000)
    assert (second.start, second.duration, second.channel, second.target) == (0.5, 1.0, 0, "being")
    dataset = SpeechDataset([first, second], [np.array([1, 2]), np.array([3])], padding=9)
    wave = read_audio(sentence)[0][0]
    batch = dataset.collater([dataset[0], dataset[1]])
    assert batch["samples"] == [30393, 16000] == batch["net_input"]["lengths"].tolist()
    assert torch.equal(batch["net_input"]["wave"][0], wave)
    assert torch.equal(batch["net_input"]["wave"][1, :16000], wave[8000:24000])
    assert not batch["net_input"]["wave"][1, 16000:].any()
    assert batch["target"].tolist() == [[1, 2], [3, 9]] and batch["target_lengths"] == [2, 1]


def test_fairseqs_tsv_and_ltr(sentence: Path, tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(f"{sentence.parent}\n{sentence.name}\t30393\n")
    (tmp_path / "train.ltr").write_text("i n | b e i n g |\n")
    (row,) = read_utterances(tmp_path / "train.tsv", "text")
    assert row.target == "in being" and row.duration == pytest.approx(1.8995625)
    (tmp_path / "train.ltr").write_text("i n |\na |\n")
    with pytest.raises(InputError, match="has 2 lines, .* 1 recordings"):
        read_utterances(tmp_path / "train.tsv", "text")
    (tmp_path / "train.ltr").unlink()
    (tmp_path / "train.tsv").write_text(f"{sentence.parent}\n{sentence.name} 30393\n")
    with pytest.raises(InputError, match="line 2: expected a path, a tab"):
        read_utterances(tmp_path / "train.tsv", "text")


def test_channels_and_rates(data: Path) -> None:
    call = str(data / "speech/calls/google_two_channel.flac")
    rows = [Utterance("a", call, 0.0, 2.0, channel, None) for channel in (0, 1, None, 2)]
    dataset = SpeechDataset(rows, [None] * 4, 0, sample_rate=8000)
    whole = read_audio(call, 8000, stop=2.0)[0]
    for channel in (0, 1):
        assert torch.equal(dataset[channel]["wave"], whole[channel])
    with pytest.raises(InputError, match='has 2 channels; add "channel", or pass --channel'):
        dataset[2]
    with pytest.raises(InputError, match="channel 2, .* has 2"):
        dataset[3]


def test_speeds_are_drawn_anew_in_each_epoch(sentence: Path) -> None:
    rows = [Utterance("a", str(sentence), 0.0, 1.5, None, "x")] * 20
    dataset = SpeechDataset(rows, [np.array([1])] * 20, 0, speeds=(0.8, 1.0, 1.25))
    wave = read_audio(sentence, stop=1.5)[0][0]
    made = {len(resample(wave, round(16000 * speed), 16000)): speed for speed in (0.8, 1.0, 1.25)}
    epochs = []
    for epoch in (1, 2, 1):
        dataset.set_epoch(epoch)
        waves = [dataset[index]["wave"] for index in range(20)]
        epochs.append([made[len(one)] for one in waves])
        for one in waves[:5]:
            assert torch.equal(one, resample(wave, round(16000 * made[len(one)]), 16000))
    assert epochs[0] == epochs[2] != epochs[1] and set(epochs[0]) == {0.8, 1.0, 1.25}
    assert all(len(one) / 160 <= size for one, size in zip(waves, dataset.sizes, strict=True))


def test_length_buckets() -> None:
    """Lengths grow but for a tenth, and neighbours are others in each epoch."""
    random = np.random.default_rng(1)
    rows = [Utterance("a", "a", 0.0, float(duration), None, "x") for duration in random.uniform(1, 15, 500)]
    dataset = SpeechDataset(rows, [np.array([1])] * 500, 0, shuffle=True)
    np.random.seed(1)
    orders = [dataset.ordered_indices() for _ in range(2)]
    for order in orders:
        assert sorted(order) == list(range(500))
        sizes = dataset.sizes[order]
        assert (sizes[1:] >= sizes[:-1] / 1.11).all() and sizes[:25].max() < sizes[-400:].min()
    assert (orders[0] != orders[1]).mean() > 0.5
    assert sorted(dataset.sizes) == dataset.sizes[SpeechDataset(rows, [None] * 500, 0).ordered_indices()].tolist()


def test_characters_outside_the_vocabulary_are_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = CharacterTokenizer("|abé")
    rows = [Utterance(f"m, line {n}", "a", 0.0, 1.0, None, text) for n, text in enumerate(("ab", "a1b2b2", ""), 1)]
    with pytest.raises(InputError, match="3 characters outside the vocabulary, first in m, line 2: '2' 2, '1' 1"):
        encode_texts(rows, tokenizer, drop_unknown=False, needed=True)
    found = encode_texts(rows, tokenizer, drop_unknown=True, needed=True)
    assert [one.tolist() for one in found] == [[1, 2], [1, 2, 2], []]
    assert "skipped" in caplog.text and "1 texts are empty" in caplog.text
    assert [needed_frames(one) for one in found] == [2, 4, 0]


def test_durations(caplog: pytest.LogCaptureFixture) -> None:
    rows = [Utterance("a", "a", 0.0, duration, None, "x") for duration in (0.05, 1.0, 20.0)]
    assert within(rows, 0.1, 16.7, "m") == rows[1:2]
    assert "2 of 3 utterances skipped" in caplog.text
