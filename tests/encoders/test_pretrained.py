"""Long recordings and streams: windows with context, against what fairseq gives for the same stretches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.encoders import build_encoder, chunking
from speechdlm_ext.encoders.chunking import Chunks, FrameGrid
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from tests.helpers.speech_checkpoints import (
    BASE,
    LARGE,
    WAVLM_CFG,
    hubert,
    hubert_features,
    save_hubert,
    wavlm_weights,
)

LENGTHS = {"chunk_seconds": 1.0, "context_seconds": 0.5}


@pytest.fixture(scope="module")
def wave(data: Path) -> torch.Tensor:
    """Eleven seconds of speech at 16 kHz (176000,), of which some are digital silence."""
    return read_audio(data / "speech" / "jfk" / "jfk.flac", 16000)[0][0]


@pytest.fixture(scope="module")
def encoders(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("encoders")
    save_hubert(folder / "base.pt", hubert(1, True, **BASE), BASE)
    save_hubert(folder / "large.pt", hubert(1, **LARGE), LARGE, normalize=True)
    weights = wavlm_weights(data / "keys" / "wavlm_large_model.txt", 3)
    torch.save({"cfg": WAVLM_CFG, "model": weights}, folder / "wavlm.pt")
    return {
        name: build_encoder(kind, {"checkpoint": str(folder / f"{name}.pt"), "layer": 2, **LENGTHS})
        for name, kind in (("base", "hubert"), ("large", "hubert"), ("wavlm", "wavlm"))
    }


@settings(deadline=None, max_examples=60)
@given(
    layers=st.lists(st.tuples(st.integers(1, 10), st.integers(1, 5)), min_size=1, max_size=5),
    samples=st.integers(0, 3000),
    padding=st.integers(0, 40),
)
def test_frames_are_what_the_convolutions_give(layers: list[tuple[int, int]], samples: int, padding: int) -> None:
    grid, x = FrameGrid(tuple(layers), padding), samples + 2 * padding
    for kernel, stride in layers:
        x = (x - kernel) // stride + 1 if x >= kernel else 0
    assert grid.frames(samples) == x
    assert grid.padded_frames(grid.reach) == 1 and grid.padded_frames(grid.reach - 1) == 0


def test_frames_of_the_published_models() -> None:
    layers = ((10, 5),) + ((3, 2),) * 4 + ((2, 2),) * 2
    for samples in (0, 79, 319, 320, 399, 400, 719, 720, 16000, 115_200_000, 115_200_079):
        assert FrameGrid(layers).frames(samples) == max(0, (samples - 400) // 320 + 1)
        assert FrameGrid(layers, 40).frames(samples) == samples // 320
    assert (FrameGrid(layers).hop, FrameGrid(layers).reach, FrameGrid(layers, 40).shortest) == (320, 400, 320)
    assert (FrameGrid((*layers, (2, 2))).hop, FrameGrid((*layers, (2, 2))).reach) == (640, 720)


@given(frames=st.integers(1, 500), kept=st.integers(1, 60), context=st.integers(0, 60))
def test_windows_keep_each_frame_once(frames: int, kept: int, context: int) -> None:
    windows = list(Chunks(kept, context).windows(frames))
    assert [frame for window in windows for frame in range(window.begin, window.end)] == list(range(frames))
    for window in windows:
        assert window.first == max(0, window.begin - context) and window.stop <= frames
        assert window.stop - window.first <= kept + 2 * context
        assert window.stop == frames or window.stop - window.end == context


def test_a_long_recording_is_the_sum_of_its_windows(encoders: dict[str, Any], wave: torch.Tensor) -> None:
    model = hubert(1, True, **BASE)
    pieces = []
    frames = (len(wave) - 400) // 320 + 1
    begin = 0
    while frames - begin > 75:  # a second is kept, half a second is seen on both sides
        first, end = max(0, begin - 25), begin + 50
        seen = wave[320 * first : 320 * (end + 25 - 1) + 400]
        pieces.append(hubert_features(model, seen, 2)[begin - first : end - first])
        begin = end
    first = max(0, begin - 25)
    pieces.append(hubert_features(model, wave[320 * first :], 2)[begin - first :])
    assert len(pieces) > 5
    features = encoders["base"].encode(wave, 16000)
    assert len(features) == frames
    torch.testing.assert_close(features, torch.cat(pieces), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["base", "large", "wavlm"])
@settings(deadline=None, max_examples=6)
@given(data=st.data())
def test_a_stream_is_the_whole_however_it_is_cut(
    encoders: dict[str, Any], wave: torch.Tensor, name: str, data: st.DataObject
) -> None:
    encoder = encoders[name]
    size = data.draw(st.integers(400, 80000), label="samples")
    stereo = torch.stack((wave[:size], 0.3 * wave[-size:]))
    sizes = data.draw(st.lists(st.integers(0, 40000), max_size=8), label="blocks")
    cuts = sorted({min(sum(sizes[: number + 1]), size) for number in range(len(sizes))})
    blocks = torch.tensor_split(stereo, cuts, dim=1)
    features = encoder.encode_blocks(blocks)
    assert features.shape == (2, encoder.frames(size), 32)
    for channel, sound in zip(features, stereo, strict=True):
        torch.testing.assert_close(channel, encoder.encode(sound, 16000), rtol=0, atol=5e-5)


@pytest.mark.parametrize("held", [1 << 27, 100_000, 0])
def test_normalized_blocks(wave: torch.Tensor, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "_HELD", held)
    stereo = torch.stack((wave, 0.01 * wave.flip(0) - 0.2))
    blocks = [*stereo.split(7001, dim=1), stereo[:, :0]]
    normed = torch.cat(list(chunking.normalized_blocks(iter(blocks))), dim=1)
    exact = stereo.double()
    exact = (exact - exact.mean(1, keepdim=True)) / (exact.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(normed, exact.float(), rtol=0, atol=2e-5)
    assert list(chunking.normalized_blocks([])) == []


@pytest.mark.commands
def test_a_long_stream_holds_one_window(encoders: dict[str, Any], wave: torch.Tensor) -> None:
    encoder = encoders["base"]
    seen: list[int] = []
    ahead: list[int] = []
    hook = encoder.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
    read = 0

    def blocks() -> Any:
        nonlocal read
        for _ in range(12):  # two minutes, in blocks of 0.6 s
            for block in wave.split(9600):
                read += len(block)
                yield block[None]

    frames = 0
    for piece in encoder.stream(blocks()):
        frames += piece.shape[1]
        ahead.append(read - 320 * frames)
    hook.remove()
    assert frames == (12 * len(wave) - 400) // 320 + 1
    assert max(seen) <= 320 * (50 + 2 * 25) + 400 and len(seen) > 120
    assert max(ahead) <= 320 * 25 + 400 + 2 * 9600  # no more is read than the context that is expected


def test_streams_that_cannot_be_encoded(encoders: dict[str, Any]) -> None:
    for encoder in encoders.values():
        with pytest.raises(InputError, match="sound of 0 samples is shorter"):
            encoder.encode_blocks([])
        with pytest.raises(InputError, match="sound of 319 samples is shorter"):
            encoder.encode_blocks([torch.zeros(2, 300), torch.zeros(2, 19)])
        with pytest.raises(InputError, match="not a finite number"):
            encoder.encode_blocks([torch.zeros(1, 5000), torch.full((1, 10), float("inf"))])
        with pytest.raises(InputError, match=r"channels \(C, n\)"):
            encoder.encode_blocks([torch.zeros(5000)])
