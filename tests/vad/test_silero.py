"""silero-vad: equal to the package's own answers on real audio, by our network and by the package's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from speechdlm_ext.io.audio import read_audio, resample
from speechdlm_ext.vad import silero
from speechdlm_ext.vad.silero import SAMPLE_RATE, Silero, load_network

FILES = (
    "calls/google_two_channel.flac",
    "calls/auto_repairs_40.ogg",
    "ami/tst00.ogg",
    "ami/trn00.ogg",
    "jfk/jfk.flac",
)


@pytest.fixture(scope="module")
def call(data: Path) -> torch.Tensor:
    return read_audio(data / "speech" / "calls" / "google_two_channel.flac", SAMPLE_RATE)[0]


def published(channel: torch.Tensor, **options: float) -> list[tuple[float, float]]:
    """What the package says."""
    threads = torch.get_num_threads()
    import silero_vad

    try:
        found = silero_vad.get_speech_timestamps(channel, silero_vad.load_silero_vad(), **options)
    finally:
        torch.set_num_threads(threads)
    return [(one["start"] / SAMPLE_RATE, one["end"] / SAMPLE_RATE) for one in found]


def approx(intervals: list[tuple[float, float]]) -> list[object]:
    return [pytest.approx(one, abs=6e-5) for one in intervals]


@pytest.mark.commands
@pytest.mark.parametrize("name", FILES)
def test_speech_is_where_the_package_finds_it(name: str, data: Path) -> None:
    wave, rate = read_audio(data / "speech" / name)
    seconds = 60 * rate
    found = Silero().detect(wave[:, :seconds].numpy(), rate)
    for channel, own in zip(resample(wave[:, :seconds], rate, SAMPLE_RATE), found, strict=True):
        assert own == approx(published(channel)) and own


@pytest.mark.commands
def test_options_are_the_packages(call: torch.Tensor) -> None:
    detector = Silero(threshold=0.7, min_speech=0.06, min_silence=0.3, pad=0.2)
    options = {"threshold": 0.7, "min_speech_duration_ms": 60, "min_silence_duration_ms": 300, "speech_pad_ms": 200}
    for channel, own in zip(call, detector.detect(call.numpy(), SAMPLE_RATE), strict=True):
        assert own == approx(published(channel, **options))


def test_the_network_is_the_packages(call: torch.Tensor) -> None:
    network = load_network()
    assert network is not None
    ours = network.probabilities(call[:, : 5 * 16000 + 77])
    import silero_vad

    theirs = silero_vad.load_silero_vad().audio_forward(call[:, : 5 * 16000 + 77], SAMPLE_RATE)
    assert ours.shape == theirs.shape == (2, 157)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert ours.max() > 0.9 and ours.min() < 0.1


@pytest.mark.commands
def test_another_network_in_the_package_is_run_by_the_package(
    call: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = Silero().detect(call.numpy(), SAMPLE_RATE)
    weights = torch.jit.load(Path(__import__("silero_vad").__file__).parent / "data" / "silero_vad.jit").state_dict()
    for changed in (
        {k.replace("reparam_conv", "conv"): v for k, v in weights.items()},
        {k: v.repeat(2, *[1] * (v.ndim - 1)) if "0.reparam_conv.weight" in k else v for k, v in weights.items()},
    ):
        load_network.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch.jit, "load", lambda *args, changed=changed, **more: _Weights(changed))
            assert load_network() is None
        assert Silero().detect(call.numpy(), SAMPLE_RATE) == fast
    load_network.cache_clear()


class _Weights:
    """A model file of which only the weights are asked for."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = weights

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.weights


def test_long_recordings_are_read_in_parts_with_one_memory(call: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_network()
    assert network is not None
    whole = network.probabilities(call)
    monkeypatch.setattr(silero, "_WINDOWS_AT_ONCE", 50)
    assert torch.allclose(network.probabilities(call), whole, atol=1e-5)


def test_other_rates_and_nothing_to_find(call: torch.Tensor) -> None:
    threads = torch.get_num_threads()
    at_8k = Silero().detect(resample(call, 16000, 8000).numpy(), 8000)
    for one, other in zip(Silero().detect(call.numpy(), 16000), at_8k, strict=True):
        assert sum(b - a for a, b in one) == pytest.approx(sum(b - a for a, b in other), rel=0.15)
    rng = np.random.default_rng(0)
    noise = (0.01 * rng.standard_normal((1, 32000))).astype(np.float32)
    assert Silero().detect(noise, 16000) == [[]]
    assert Silero().detect(np.zeros((2, 0), np.float32), 16000) == [[], []]
    assert Silero().detect(np.zeros((2, 100), np.float32), 16000) == [[], []]
    assert torch.get_num_threads() == threads
