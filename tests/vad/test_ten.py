"""ten-vad, where its library can be loaded: the package's own flags, as intervals."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.metrics.intervals import intervals_to_frames
from speechdlm_ext.vad.ten import HOP, SAMPLE_RATE, Ten


def test_intervals_are_the_packages_flags_on_the_files_own_samples(data: Path) -> None:
    path = data / "speech" / "calls" / "google_two_channel.flac"
    wave, _ = read_audio(path, SAMPLE_RATE)
    try:
        found = Ten().detect(wave.numpy(), SAMPLE_RATE)
    except InputError as error:
        pytest.skip(str(error))
    from ten_vad import TenVad

    for samples, own in zip(soundfile.read(path, dtype="int16")[0].T.copy(), found, strict=True):
        network = TenVad(HOP, 0.5)
        hops = samples[: len(samples) // HOP * HOP].reshape(-1, HOP)
        flags = [bool(network.process(hop)[1]) for hop in hops]
        assert intervals_to_frames(own, len(flags), HOP / SAMPLE_RATE).tolist() == flags and any(flags)
