"""Codebooks: nearest centroids against brute force, files, fingerprints, and training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.units import Codebook
from speechdlm_ext.units.kmeans import train_codebook
from tests.helpers.features import sample_features


def book(units: int = 7, dim: int = 40, seed: int = 0, offset: float = 0.0) -> Codebook:
    centroids = torch.randn(units, dim, generator=torch.Generator().manual_seed(seed)) + offset
    return Codebook(centroids, "logmel", {"n_mels": dim}, 50.0, {"level": -25.0})


@settings(deadline=None, max_examples=60)
@given(
    frames=st.integers(1, 200), units=st.integers(1, 60), dim=st.integers(8, 50), seed=st.integers(0, 99),
    offset=st.sampled_from([0.0, -40.0, 1000.0]),
)  # fmt: skip
def test_nearest_is_nearest(frames: int, units: int, dim: int, seed: int, offset: float) -> None:
    codebook = book(units, dim, seed, offset)
    features = torch.randn(frames, dim, generator=torch.Generator().manual_seed(seed + 1000)) + offset
    got = codebook.quantize(features)
    assert got.dtype == torch.int64 and got.shape == (frames,)
    distances = ((features.double()[:, None] - codebook.centroids.double()[None]) ** 2).sum(dim=2)
    chosen = distances.gather(1, got[:, None])[:, 0]
    # In float32 two distances may be the same to seven digits; none may be nearer than that.
    assert bool((chosen <= distances.min(dim=1).values * (1 + 1e-4) + 1e-4).all())
    assert float((got == distances.argmin(dim=1)).double().mean()) > 0.99


def test_equal_centroids_give_the_lowest_unit() -> None:
    codebook = Codebook(torch.ones(3, 8), "logmel", {"n_mels": 8}, 50.0)
    assert codebook.quantize(torch.randn(50, 8)).unique().tolist() == [0]


def test_file_round_trip(tmp_path: Path) -> None:
    codebook = book()
    path = tmp_path / "new folder" / "ein Büch “7”.safetensors"
    codebook.save(path)
    again = Codebook.load(path)
    assert torch.equal(again.centroids, codebook.centroids) and again.fingerprint == codebook.fingerprint
    assert (again.encoder, again.options, again.frame_rate) == ("logmel", {"n_mels": 40}, 50.0)
    assert again.extra == {"level": -25.0}
    assert book(seed=1).fingerprint != codebook.fingerprint
    other = Codebook(codebook.centroids, "logmel", {"n_mels": 40, "window": 640}, 50.0)
    assert other.fingerprint != codebook.fingerprint


def test_fingerprints_stay_as_they_were() -> None:
    """Unit files carry them."""
    options = {"n_mels": 8, "floor_db": -30.0, "window": 400}
    codebook = Codebook(torch.arange(24.0).view(3, 8), "logmel", options, 50.0, {"level": -20.0})
    assert codebook.fingerprint == "d58ee4af8f2c"
    codebook.check_encoder(LogMelEncoder(n_mels=8))


def test_widths_and_rates_that_disagree_name_both() -> None:
    with pytest.raises(InputError, match="width 32.*width 40"):
        Codebook(torch.randn(3, 32), "logmel", {"n_mels": 40}, 50.0).build_encoder()
    with pytest.raises(InputError, match="25 Hz.*50 Hz"):
        Codebook(torch.randn(3, 40), "logmel", {}, 25.0).build_encoder()
    with pytest.raises(InputError, match=r"\(5, 32\).*width 40"):
        book().quantize(torch.zeros(5, 32))
    with pytest.raises(InputError, match="finite"):
        book().quantize(torch.full((5, 40), float("nan")))


def test_equal_codebooks_are_equal_files(tmp_path: Path) -> None:
    for number in range(8):
        book().save(tmp_path / f"{number}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("kind", ["missing", "text", "other", "no facts", "bad facts", "no object"])
def test_files_that_are_no_codebooks(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.safetensors"
    if kind == "text":
        path.write_text("hello" * 100)
    elif kind == "other":
        save_file({"weight": torch.zeros(3, 4)}, path)
    elif kind == "no facts":
        save_file({"codebook": torch.zeros(3, 4)}, path)
    elif kind == "bad facts":
        save_file({"codebook": torch.zeros(3, 4)}, path, metadata={"facts": "{"})
    elif kind == "no object":
        save_file({"codebook": torch.zeros(3, 4)}, path, metadata={"facts": "[]"})
    with pytest.raises(InputError) as caught:
        Codebook.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_training_finds_the_clusters_and_is_the_same_each_time() -> None:
    encoder = LogMelEncoder(n_mels=8)
    generator = torch.Generator().manual_seed(3)
    truth = torch.randn(5, 8, generator=generator) * 10
    labels = torch.arange(1000) % 5
    features = truth[labels] + 0.1 * torch.randn(1000, 8, generator=generator)
    codebook = train_codebook(features, encoder, 5, seed=1, levels=[-30.0, -20.0, -21.0])
    units = codebook.quantize(features)
    assert len({(int(a), int(b)) for a, b in zip(labels, units, strict=True)}) == 5
    assert float(torch.cdist(truth, codebook.centroids).min(dim=1).values.max()) < 0.1
    assert codebook.extra["level"] == -21.0 and codebook.extra["counts"] == [200] * 5
    means = codebook.centroids.mean(dim=1)
    assert bool((means[1:] >= means[:-1]).all()), "unit 0 is the quietest"
    assert train_codebook(features, encoder, 5, 1, [-30.0, -20.0, -21.0]).fingerprint == codebook.fingerprint


def test_threads_do_not_change_the_codebook(data: Path) -> None:
    from threadpoolctl import threadpool_limits

    encoder = LogMelEncoder()
    wave, _ = read_audio(data / "speech" / "jfk" / "jfk.flac", 16000)
    features = encoder.encode(wave[0], 16000)
    found = set()
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            found.add(train_codebook(features, encoder, 30, seed=2).fingerprint)
    assert len(found) == 1
    assert train_codebook(features, encoder, 30, seed=3).fingerprint not in found


def test_more_units_than_frames() -> None:
    encoder = LogMelEncoder()
    with pytest.raises(InputError, match="20 units from 1 different frames"):
        train_codebook(torch.zeros(100, 40), encoder, 20, seed=1)
    with pytest.raises(InputError, match="at least 1"):
        train_codebook(torch.zeros(100, 40), encoder, 0, seed=1)


def test_sample_takes_the_same_share_of_each(data: Path) -> None:
    path = str(data / "speech" / "calls" / "google_two_channel.flac")
    rows = [{"id": str(i), "audio_filepath": path, "duration": 6.665, "channels": 2} for i in range(3)]
    everything, levels = sample_features(rows, LogMelEncoder(), max_frames=10**6, seed=1)
    assert len(everything) == 3 * 2 * 333 and len(levels) == 6
    some, _ = sample_features(rows, LogMelEncoder(), max_frames=999, seed=1)
    again, _ = sample_features(rows, LogMelEncoder(), max_frames=999, seed=1)
    assert torch.equal(some, again) and abs(len(some) - 999) < 150
    # Every one of them is a frame of the recording, and of the three equal recordings different ones were drawn.
    assert float(torch.cdist(some.double(), everything.double()).min(dim=1).values.max()) < 1e-3
    assert len(np.unique(some.numpy(), axis=0)) > 400


@pytest.mark.commands
def test_several_threads_give_nearly_the_same_codebook() -> None:
    """Sums come in another order: the error is the same up to rounding; one thread gives the same bits."""
    features = torch.randn(4000, 40, generator=torch.Generator().manual_seed(3)) * 10
    encoder = LogMelEncoder()
    one, again, two = (train_codebook(features, encoder, 12, 1, threads=threads) for threads in (1, 1, 2))
    assert torch.equal(one.centroids, again.centroids)
    assert two.extra["mean_square_error"] == pytest.approx(one.extra["mean_square_error"], rel=1e-2)
    with pytest.raises(InputError, match="0 threads"):
        train_codebook(features, encoder, 12, 1, threads=0)
