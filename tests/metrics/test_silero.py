"""silero-vad: our way through the network against the package's own, and boundaries in conversations of known truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from speechdlm_ext.audio import read_audio
from speechdlm_ext.dialogues.clips import SAMPLE_RATE
from speechdlm_ext.dialogues.conversation import make_conversation
from speechdlm_ext.dialogues.recordings import RecordingSource
from speechdlm_ext.metrics.activity import detect_speech
from speechdlm_ext.metrics.events import EventList
from speechdlm_ext.metrics.silero import SileroOptions, detect_speech_silero, load_network
from speechdlm_ext.metrics.turn_taking import find_events

pytest.importorskip("silero_vad")


@pytest.fixture(scope="module")
def call(shared: Path) -> torch.Tensor:
    return read_audio(shared / "speech" / "calls" / "google_two_channel.flac", 16000)[0]


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
    monkeypatch.setattr("speechdlm_ext.metrics.silero._TOGETHER", 50)
    assert torch.allclose(load_network().probabilities(call), whole, atol=1e-5)


def test_other_rates_and_nothing_to_hear(call: torch.Tensor) -> None:
    from speechdlm_ext.audio import resample

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


def share_found(truth: EventList, found: EventList, within: float = 0.1) -> float:
    """Share of the true beginnings and ends of IPUs that have one found near them on their channel."""
    near = []
    for side in ("start", "end"):
        for channel in (0, 1):
            wanted = getattr(truth, side)[truth.channels[:, channel]]
            there = getattr(found, side)[found.channels[:, channel]]
            near += (np.abs(wanted[:, None] - there).min(axis=1) <= within).tolist()
    return float(np.mean(near))


@pytest.mark.parametrize(
    ("noise", "gain", "by_energy"),
    (((-72.0, -60.0), 1.0, 0.9), ((-60.0, -52.0), 1.0, 0.85), ((-66.0, -60.0), 0.1, 0.9)),
)
def test_boundaries_and_rates_of_made_conversations(
    shared: Path, noise: tuple[float, float], gain: float, by_energy: float
) -> None:
    """The voices of people, cut and put together again; energy loses weak endings in the stronger noise.

    Thresholds were chosen on other conversations. What is rare (interruptions) would need hours of talk.
    """
    source = RecordingSource(shared / "speech" / "librispeech_test_other")
    talk = make_conversation(source, 300, np.random.default_rng(7), noise_levels=noise)
    truth = find_events([talk.speech(0), talk.speech(1)], 300)
    wave = gain * talk.wave
    by_network = find_events(detect_speech_silero(wave, SAMPLE_RATE), 300)
    by_level = find_events([detect_speech(channel, SAMPLE_RATE) for channel in wave], 300)
    for name, least, found, kinds in (
        ("silero", 0.95, by_network, ("ipus", "turns", "floor_transfers", "gaps", "overlaps", "pauses")),
        ("energy", by_energy, by_level, ("ipus", "turns")),
    ):
        assert share_found(truth.ipus, found.ipus) >= least, name
        for kind in kinds:
            wanted, there = getattr(truth, kind), getattr(found, kind)
            assert len(there) == pytest.approx(len(wanted), rel=0.1), (name, kind)
            if name == "silero" and kind != "floor_transfers":  # these are signed
                assert there.durations.sum() == pytest.approx(wanted.durations.sum(), rel=0.1), kind


def test_thresholds_are_options(call: torch.Tensor) -> None:
    def total(options: SileroOptions) -> float:
        return sum(b - a for channel in detect_speech_silero(call, 16000, options) for a, b in channel)

    assert total(SileroOptions(rise=0.9, fall=0.9)) < total(SileroOptions()) < total(SileroOptions(rise=0.2, fall=0.1))
