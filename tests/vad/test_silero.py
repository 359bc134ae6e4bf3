"""silero-vad: our way through the network against the package's own, real calls, and what is at the edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.io.rttm import read_rttm, speech_by_speaker
from speechdlm_ext.metrics.agreement import speech_agreement
from speechdlm_ext.metrics.intervals import join_intervals
from speechdlm_ext.vad.energy import detect_speech
from speechdlm_ext.vad.silero import SileroOptions, detect_speech_silero, load_network

pytest.importorskip("silero_vad")


@pytest.fixture(scope="module")
def call(data: Path) -> torch.Tensor:
    return read_audio(data / "speech" / "calls" / "google_two_channel.flac", 16000)[0]


def test_the_network_is_the_packages(call: torch.Tensor) -> None:
    threads = torch.get_num_threads()
    ours = load_network().probabilities(call[:, : 5 * 16000 + 77])
    assert torch.get_num_threads() == threads
    from silero_vad import load_silero_vad

    theirs = load_silero_vad().audio_forward(call[:, : 5 * 16000 + 77], 16000)
    torch.set_num_threads(threads)
    assert ours.shape == theirs.shape == (2, 157)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert ours.max() > 0.9 and ours.min() < 0.1


def test_long_recordings_are_read_in_parts_with_one_memory(call: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_network().probabilities(call)
    monkeypatch.setattr("speechdlm_ext.vad.silero._TOGETHER", 50)
    assert torch.allclose(load_network().probabilities(call), whole, atol=1e-5)


def test_other_rates_and_nothing_to_hear(call: torch.Tensor) -> None:
    from speechdlm_ext.io.audio import resample

    at_16k = detect_speech_silero(call, 16000)
    at_8k = detect_speech_silero(resample(call, 16000, 8000), 8000)
    for one, other in zip(at_16k, at_8k, strict=True):
        assert sum(b - a for a, b in one) == pytest.approx(sum(b - a for a, b in other), rel=0.15)
    rng = np.random.default_rng(0)
    noise = (0.01 * rng.standard_normal((1, 32000))).astype(np.float32)
    assert detect_speech_silero(noise, 16000) == [[]]
    assert detect_speech_silero(np.zeros((2, 0), np.float32), 16000) == [[], []]
    assert detect_speech_silero(np.zeros((2, 100), np.float32), 16000) == [[], []]


def test_speech_up_to_the_end_ends_there(call: torch.Tensor) -> None:
    first = detect_speech_silero(call, 16000)[0]
    middle = sum(max(first, key=lambda s: s[1] - s[0])) / 2  # in the middle of the longest stretch
    cut = detect_speech_silero(call[:1, : round(middle * 16000)], 16000)[0]
    assert cut[-1][1] == pytest.approx(middle, abs=1e-3)


def test_a_leak_from_the_other_channel_is_not_speech(call: torch.Tensor) -> None:
    """Half a minute of the call's first channel alone, 30 dB lower in a second one that says a little by itself."""
    one, other = call[0], torch.zeros_like(call[0])
    own = slice(round(0.1 * len(one)), round(0.1 * len(one)) + 3 * 16000)
    other[own] = call[1][own] if call[1][own].std() > call[1].std() / 2 else one.flip(0)[own]
    noise = 1e-4 * torch.from_numpy(np.random.default_rng(0).standard_normal((2, len(one)))).float()
    clean, leaky = torch.stack([one, other]) + noise, torch.stack([one, other + 10 ** (-30 / 20) * one]) + noise
    for without, with_leak in zip(detect_speech_silero(clean, 16000), detect_speech_silero(leaky, 16000), strict=True):
        assert speech_agreement(without, with_leak, len(one) / 16000) > 0.97


def test_meetings_as_annotated(data: Path) -> None:
    """AMI: the shares of 10 ms that are speech in both or silence in both, no lower than they were measured once."""
    speech = speech_by_speaker(read_rttm(data / "speech" / "ami.rttm"))
    shares = []
    for path in sorted((data / "speech" / "ami").glob("*.ogg")):
        wave, rate = read_audio(path)
        truth = join_intervals([stretch for parts in speech[path.stem].values() for stretch in parts])
        duration = wave.shape[1] / rate
        found = detect_speech_silero(wave, rate)[0], detect_speech(wave[0].numpy(), rate)
        shares.append([speech_agreement(truth, stretches, duration) for stretches in found])
    by_network, by_level = np.mean(shares, axis=0)
    assert by_network > 0.84 and by_level > 0.72


def test_thresholds_are_options(call: torch.Tensor) -> None:
    def total(options: SileroOptions) -> float:
        return sum(b - a for channel in detect_speech_silero(call, 16000, options) for a, b in channel)

    assert total(SileroOptions(rise=0.9, fall=0.9)) < total(SileroOptions()) < total(SileroOptions(rise=0.2, fall=0.1))
