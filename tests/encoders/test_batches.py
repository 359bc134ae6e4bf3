"""Batches of recordings: halved where memory runs out, without waiting for a device, in memory that does not grow."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from speechdlm_ext.encoders import LogMelEncoder, build_encoder
from speechdlm_ext.errors import ShortOfMemory
from speechdlm_ext.units import Codebook, DPDPQuantizer
from speechdlm_ext.units.encoding import encode_rows
from tests.helpers.host_syncs import counted_syncs
from tests.helpers.speech_checkpoints import BASE, hubert, save_hubert


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """Seven stereo recordings of about a second."""
    made = []
    for number in range(7):
        path = tmp_path / f"{number}.wav"
        noise = np.random.default_rng(number).normal(0, 0.1, (16000 + 40 * number, 2))
        soundfile.write(path, noise, 16000)
        made.append({"id": str(number), "audio_filepath": str(path), "channels": 2, "duration": len(noise) / 16000})
    return made


class Small(LogMelEncoder):
    """An encoder on a device that has memory for so many samples."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.sizes = most, []

    def encode_batch(self, waves, batch_seconds=None):  # type: ignore[no-untyped-def]
        self.sizes.append(len(waves))
        if sum(map(len, waves)) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return super().encode_batch(waves)


def units_of(encoded: Any) -> dict[str, list[list[int]]]:
    return {one.row["id"]: [channel.tolist() for channel in one.units] for one in encoded}


def test_out_of_memory_halves_the_batch_and_goes_on(rows: list[dict[str, Any]]) -> None:
    codebook = Codebook(torch.randn(20, 40, generator=torch.Generator().manual_seed(1)) * 10, "logmel", {}, 50.0)
    expected = units_of(encode_rows(rows, LogMelEncoder(), codebook, batch_seconds=0.0))
    encoder = Small(70_000)  # two recordings of two channels
    assert units_of(encode_rows(rows, encoder, codebook, batch_seconds=60.0)) == expected
    assert max(encoder.sizes) == 14 and min(encoder.sizes) == 2
    with pytest.raises(ShortOfMemory, match="--batch-seconds"):
        list(encode_rows(rows, Small(10_000), codebook, batch_seconds=60.0))


def test_windows_are_halved_too(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    save_hubert(tmp_path / "base.pt", hubert(1, **BASE), BASE)
    encoder: Any = build_encoder("hubert", {"checkpoint": str(tmp_path / "base.pt"), "layer": 2})
    waves = [torch.randn(size) * 0.1 for size in (16000, 15000, 8000, 16000)]
    expected = encoder.encode_batch(waves)
    forward, sizes = encoder.model.forward, []

    def short(padded: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        sizes.append(len(padded))
        if len(padded) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(padded, lengths)

    encoder.model.forward = short
    for found, want in zip(encoder.encode_batch(waves), expected, strict=True):
        torch.testing.assert_close(found, want, rtol=0, atol=1e-5)
    assert sizes.count(1) == 4 and max(sizes) == 4


@pytest.mark.commands
@pytest.mark.parametrize("kind", ["nearest", "penalty"])
def test_one_copy_a_batch_is_all_that_waits(tmp_path: Path, kind: str) -> None:
    """From sound on the host to units on the host, whatever the number of channels."""
    save_hubert(tmp_path / "base.pt", hubert(1, True, **BASE), BASE)
    encoder = build_encoder("hubert", {"checkpoint": str(tmp_path / "base.pt"), "layer": 2})
    codebook = Codebook(torch.randn(30, 32)).for_encoder(encoder)
    quantizer = codebook if kind == "nearest" else DPDPQuantizer(codebook, 5.0)
    waves = [torch.randn(size) * 0.1 for size in (16000, 15000, 8000, 16000)]
    list(quantizer.codes(encoder.encode_batch(waves)))  # tables that are made once
    with counted_syncs() as found:
        codes = list(quantizer.codes(encoder.encode_batch(waves)))
    # numpy: that the samples are finite is seen on the host, where they are.
    assert {name: count for name, count in found.items() if name != "numpy"} == {}
    assert len(codes) == 1 and len(codes[0]) == sum(encoder.frames(len(wave)) for wave in waves)


MEASURE = """
import json, resource, sys
from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.units import load_codebook
from speechdlm_ext.units.encoding import encode_rows
codebook = load_codebook(sys.argv[1])
rows = [{"id": "a", "audio_filepath": sys.argv[2], "channels": 2}]
(encoded,) = encode_rows(rows, LogMelEncoder(), codebook)
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, encoded.frames]))
"""


def test_an_hour_takes_little_more_memory_than_a_minute(tmp_path: Path, run_command: Any) -> None:
    """0.3 GB: two channels of telephone speech."""
    torch.manual_seed(1)
    Codebook(torch.randn(100, 40) * 10, "logmel", {}, 50.0).save(tmp_path / "codebook.safetensors")
    minute = np.random.default_rng(1).normal(0, 0.05, (60 * 8000, 2)).astype(np.float32)
    peaks = []
    for minutes in (1, 60):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", 8000, 2, "ULAW") as file:
            for _ in range(minutes):
                file.write(minute)
        done = run_command([sys.executable, "-c", MEASURE, tmp_path / "codebook.safetensors", path])
        peak, frames = json.loads(done.stdout.splitlines()[-1])
        assert frames == minutes * 3000
        peaks.append(peak / 1e6)
        path.unlink()
    assert peaks[1] - peaks[0] < 0.3, peaks
