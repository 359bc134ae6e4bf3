"""Audio files: whole and by blocks, resampling against an ideal one, and what is wrong with a file in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import (
    audio_info,
    read_audio,
    read_blocks,
    resample,
    resample_blocks,
    resampled_length,
    write_audio,
)


def tones(seconds: float, rate: int, frequencies: tuple[float, ...] = (440.0, 1000.0)) -> np.ndarray:
    """One sine a channel, (N, C)."""
    times = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * hz * times) for hz in frequencies], axis=1).astype(np.float32)


def test_info_and_samples(tmp_path: Path) -> None:
    path = tmp_path / "two 'tones' – Ω.flac"
    soundfile.write(path, tones(1.5, 22050), 22050)
    info = audio_info(path)
    assert (info.sample_rate, info.channels, info.frames, info.duration) == (22050, 2, 33075, 1.5)
    wave, rate = read_audio(path)
    assert rate == 22050 and wave.dtype == torch.float32
    np.testing.assert_allclose(wave.numpy().T, tones(1.5, 22050), atol=2**-15)


@pytest.mark.parametrize("name", ["a.wav", "a.ogg", "a.mp3", "a.MP3"])
def test_formats(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, tones(1, 16000), 16000, format=name[2:].upper())
    wave, rate = read_audio(tmp_path / name)
    assert rate == 16000 and wave.shape[0] == 2 and abs(wave.shape[1] - 16000) <= 1152
    # The tones are where they were put: each channel's strongest frequency.
    peaks = torch.fft.rfft(wave[:, 2000:12000]).abs().argmax(dim=1) * (16000 / 10000)
    assert peaks.tolist() == pytest.approx([440, 1000], abs=2)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(8000, 16000), (44100, 16000), (48000, 16000), (11025, 16000)])
def test_resampled_tone_is_the_tone(from_hz: int, to_hz: int) -> None:
    got = resample(torch.from_numpy(tones(1, from_hz).T), from_hz, to_hz)
    assert got.shape == (2, to_hz)
    middle = slice(to_hz // 10, -to_hz // 10)
    np.testing.assert_allclose(got.numpy()[:, middle], tones(1, to_hz).T[:, middle], atol=2e-3)


def test_resampling_down_keeps_the_band_and_does_not_alias() -> None:
    """0.5 dB at most is lost up to 7 kHz, and nothing above 8 kHz comes back as another tone (80 dB down)."""
    for hz, lowest, highest in ((7000.0, 0.472, 0.501), (8200.0, 0, 5e-5), (8500.0, 0, 5e-5), (11000.0, 0, 5e-5)):
        got = resample(torch.from_numpy(tones(1, 48000, (hz,)).T), 48000, 16000)[:, 500:-500]
        assert lowest <= float(got.square().mean().mul(2).sqrt()) <= highest, hz


@settings(deadline=None, max_examples=40)
@given(
    frames=st.integers(1, 4000),
    rates=st.tuples(st.integers(50, 400), st.integers(50, 400)),
    block=st.integers(1, 3000),
    seed=st.integers(0, 9),
)
def test_resampling_by_blocks_is_resampling(frames: int, rates: tuple[int, int], block: int, seed: int) -> None:
    wave = torch.randn(2, frames, generator=torch.Generator().manual_seed(seed))
    whole = resample(wave, *rates)
    assert whole.shape[1] == resampled_length(frames, *rates) == int(np.ceil(frames * rates[1] / rates[0]))
    parts = np.concatenate(list(resample_blocks((part.numpy() for part in wave.split(block, dim=1)), *rates)), axis=1)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)


def test_blocks_joined_are_the_file(data: Path) -> None:
    path = data / "speech" / "calls" / "google_two_channel.flac"
    for rate in (None, 8000, 22050):
        whole, _ = read_audio(path, rate)
        parts = list(read_blocks(path, rate, block_seconds=0.7))
        assert len(parts) > 5
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(channels=st.integers(1, 3), frames=st.integers(1, 500), seed=st.integers(0, 99))
def test_written_sound_reads_back(tmp_path_factory, channels: int, frames: int, seed: int) -> None:
    wave = torch.rand(channels, frames, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    path = tmp_path_factory.mktemp("written") / "a.wav"
    assert write_audio(path, wave, 16000) == 1.0
    got, rate = read_audio(path)
    assert rate == 16000
    # Full scale is 32767 in the file and 32768 for the reader: one part in 32768, beside the rounding.
    torch.testing.assert_close(got, wave, rtol=0, atol=1.6 / 32768)


def test_too_loud_is_turned_down_not_clipped(tmp_path: Path) -> None:
    wave = torch.tensor([[0.5, -2.0, 1.0]])
    assert write_audio(tmp_path / "a.wav", wave, 16000) == pytest.approx(0.5)
    torch.testing.assert_close(read_audio(tmp_path / "a.wav")[0], wave / 2, rtol=0, atol=1e-4)


def test_long_sound_is_the_file_that_libsndfile_writes(tmp_path: Path) -> None:
    """Byte by byte, over more than one of the blocks that it is written in, and with the gain of the whole."""
    wave = torch.randn(2, 1_100_000, generator=torch.Generator().manual_seed(1)) * 0.1
    wave[1, -1] = -2.0
    assert write_audio(tmp_path / "a.wav", wave, 22050) == 0.5
    samples = np.rint(wave.numpy().T * (0.5 * 32767)).astype(np.int16)
    soundfile.write(tmp_path / "b.wav", samples, 22050, subtype="PCM_16")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize("wave", [torch.zeros(2, 0), torch.tensor([0.0, float("nan")])])
def test_unwritable_sound(tmp_path: Path, wave: torch.Tensor) -> None:
    with pytest.raises(InputError):
        write_audio(tmp_path / "a.wav", wave, 16000)
    assert not list(tmp_path.iterdir())


@pytest.mark.commands
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("missing.wav", "no such file"),
        ("folder.wav", "is a folder"),
        ("empty.wav", "0 bytes"),
        ("text.wav", "not audio"),
        ("nothing.wav", "no samples"),
        ("nan.wav", "not a number, first at 0.250 s"),
        ("inf.wav", "not a number"),
        ("mono.wav", "1 channel, 2 are needed"),
        ("three.wav", "3 channels, 2 are needed"),
    ],
)
def test_bad_files_in_one_line(tmp_path: Path, name: str, expected: str) -> None:
    path = tmp_path / name
    sound = np.tile(tones(2, 16000), (4, 1)) + 0.01 * np.random.default_rng(1).standard_normal((128000, 2))
    if name == "folder.wav":
        path.mkdir()
    elif name == "empty.wav":
        path.touch()
    elif name == "text.wav":
        path.write_text("not a sound\n" * 100)
    elif name == "nothing.wav":
        soundfile.write(path, sound[:0], 16000)
    elif name in ("nan.wav", "inf.wav"):
        sound = sound.astype(np.float32)
        sound[4000, 1] = np.nan if name == "nan.wav" else np.inf
        soundfile.write(path, sound, 16000, subtype="FLOAT")
    elif name == "mono.wav":
        soundfile.write(path, sound[:, 0], 16000)
    elif name == "three.wav":
        soundfile.write(path, np.concatenate((sound, sound[:, :1]), axis=1), 16000)
    with pytest.raises(InputError, match=expected) as caught:
        read_audio(path, channels=2)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_stream_header_is_not_taken_for_a_cut(tmp_path: Path) -> None:
    """A wav that came through a pipe has an impossible length in its header, and all of its sound."""
    path = tmp_path / "pipe.wav"
    soundfile.write(path, tones(1, 16000), 16000, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = content[4:8] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert read_audio(path)[0].shape == (2, 16000)


def test_disk_full_leaves_nothing(tmp_path: Path, run_command) -> None:
    """A write that fails half-way leaves the old file as it was, and no other."""
    write_audio(tmp_path / "a.wav", torch.zeros(100), 16000)
    before = (tmp_path / "a.wav").read_bytes()
    program = (
        "import resource, signal, sys, torch; from speechdlm_ext.io.audio import write_audio\n"
        "from speechdlm_ext.errors import run_command\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "run_command(lambda: write_audio(sys.argv[1], torch.zeros(2, 16000), 16000) and None)\n"
    )
    done = run_command(["python", "-c", program, tmp_path / "a.wav"], check=False)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert str(tmp_path / "a.wav") in done.stderr
    assert (tmp_path / "a.wav").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_part_of_a_file(tmp_path: Path) -> None:
    sound = tones(3, 8000)
    soundfile.write(tmp_path / "a.wav", sound, 8000, subtype="FLOAT")
    for start, stop in ((0.0, 1.25), (0.5, None), (2.9, 3.0), (1.0, 99.0)):
        soundfile.write(tmp_path / "part.wav", sound[round(8000 * start) : round(8000 * (stop or 9))], 8000, "FLOAT")
        for rate in (8000, 16000):
            got, _ = read_audio(tmp_path / "a.wav", rate, start=start, stop=stop)
            torch.testing.assert_close(got, read_audio(tmp_path / "part.wav", rate)[0], rtol=0, atol=1e-6)
    for start, stop in ((3.0, None), (1.0, 1.0), (-1.0, 2.0), (5.0, 6.0)):
        with pytest.raises(InputError, match="a.wav has no samples from .* s: it is 3 s"):
            read_audio(tmp_path / "a.wav", start=start, stop=stop)
