"""K-means codebooks from a random share of the frames of many recordings."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from speechdlm_ext.encoders.base import Encoder
from speechdlm_ext.encoders.chunking import Growing, to_device
from speechdlm_ext.encoders.logmel import LOWEST_LEVEL, LevelMeter
from speechdlm_ext.errors import InputError, ShortOfMemory, one_line
from speechdlm_ext.io.read_ahead import read_ahead
from speechdlm_ext.io.recordings import recording_size
from speechdlm_ext.units.codebook import Codebook

ALGORITHMS = ("full", "minibatch", "faiss")
# Frames of a minibatch: k-means++ on it, and each step, see every one of 1000 centroids several times.
_MINIBATCH = 16384


@dataclass(frozen=True)
class Drawn:
    """The frames that were drawn from one recording.

    Attributes:
        row: of the manifest.
        features: (n, D), of all channels.
        levels: active level of each channel that has sound, in dB re full scale.
        seconds: length of the sound.
        error: why there are none, in one line.
    """

    row: Mapping[str, Any]
    features: torch.Tensor
    levels: list[float]
    seconds: float = 0.0
    error: str | None = None


def count_frames(rows: Sequence[Mapping[str, Any]], encoder: Encoder) -> int:
    """About how many frames all channels of the recordings have, by what the manifest says."""
    total = 0
    for row in rows:
        try:
            seconds, channels = recording_size(row)
        except (InputError, OSError):
            continue  # it will be skipped
        total += encoder.frames(round(seconds * encoder.sample_rate)) * channels
    return total


def draw_features(
    rows: Sequence[tuple[int, Mapping[str, Any]]], encoder: Encoder, share: float, seed: int, workers: int = 2
) -> Generator[Drawn, None, None]:
    """Features of a random share of the frames of each recording, the same whatever else is drawn.

    Args:
        rows: of a manifest, each with its place in it.
        encoder: what makes the features.
        share: of the frames.
        seed: of the choice, with the recording's place.
        workers: threads that read ahead.
    """

    with closing(read_ahead([row for _, row in rows], encoder.sample_rate, workers)) as readings:
        for (place, row), reading in zip(rows, readings, strict=True):
            meter = LevelMeter()
            draw = np.random.default_rng((seed, place))
            try:
                chosen = _choose(encoder, meter.watch(reading), share, draw)
            except ShortOfMemory:
                raise
            except (InputError, OSError) as error:
                yield Drawn(row, torch.zeros(0, encoder.dim), [], error=one_line(error))
                continue
            levels = [level for level in meter.levels() if level > LOWEST_LEVEL]
            yield Drawn(row, chosen, levels, reading.samples / encoder.sample_rate)


def _choose(encoder: Encoder, blocks: Iterable[torch.Tensor], share: float, draw: np.random.Generator) -> torch.Tensor:
    chosen = Growing()
    for piece in encoder.stream(blocks):  # not all features of a long recording at once
        features = piece.flatten(0, 1)
        places = torch.from_numpy(np.flatnonzero(draw.random(len(features)) < share))
        chosen.add(features[to_device(places, features.device)].cpu()[None])
    return chosen.joined()[0]


def train_codebook(
    features: torch.Tensor | np.ndarray,
    encoder: Encoder,
    num_units: int,
    seed: int,
    levels: Sequence[float] = (),
    algorithm: str = "full",
    threads: int = 1,
) -> Codebook:
    """K-means (k-means++, then Lloyd's steps) on features.

    With one thread the result depends on the features, the seed and the algorithm alone. With several, sums come out in
    another order each time, so that centroids differ in their last digits, and a few labels with them.

    Args:
        features: (n, D); ``minibatch`` reads them from a mapped file as it needs them, the others hold them in memory.
        encoder: whose features they are.
        num_units: number of centroids K.
        seed: of the first centroids.
        levels: active levels of the channels they come from, in dB re full scale; their median goes into the file, and
            sound that is made from units has it.
        algorithm: ``full``, all frames in each step (scikit-learn), ``minibatch``, some of them (scikit-learn), or
            ``faiss``, all of them, by that library, where it is installed.
        threads: of scikit-learn; faiss takes all that there are.

    Raises:
        InputError: K is not positive, there are fewer different frames than K, or there is no such algorithm.
    """
    if num_units < 1 or threads < 1:
        raise InputError(f"{num_units} units, {threads} threads: at least 1 is expected")
    check_algorithm(algorithm)
    features = features.numpy() if isinstance(features, torch.Tensor) else features
    different = len(np.unique(features[: 50 * num_units], axis=0))
    if different < num_units:
        different = len(np.unique(features, axis=0))
    if different < num_units:
        raise InputError(f"{num_units} units from {different} different frames: take fewer units or more recordings")
    if algorithm == "faiss":
        found, labels, error = _fit_faiss(features, num_units, seed)
    else:
        found, labels, error = _fit_sklearn(features, num_units, seed, algorithm, threads)
    # Centroids in order of loudness: unit 0 is silence, which makes unit files easier to read.
    centroids = torch.from_numpy(found).to(torch.float32)
    order = centroids.mean(dim=1).argsort(stable=True)
    facts = {
        "seed": seed,
        "mean_square_error": float(error / features.size),
        "counts": torch.bincount(torch.from_numpy(labels), minlength=num_units)[order].tolist(),
    }
    if algorithm != "full":
        facts["algorithm"] = algorithm
    if levels:
        facts["level"] = float(np.median(levels))
    return Codebook(centroids[order], encoder.name, encoder.options, encoder.frame_rate, facts, encoder.identity)


def check_algorithm(name: str) -> None:
    """Raise an InputError unless there is such an algorithm and, for ``faiss``, the library."""
    if name not in ALGORITHMS:
        raise InputError(f"--algorithm {name}: there is {', '.join(ALGORITHMS)}")
    if name == "faiss" and find_spec("faiss") is None:
        raise InputError("--algorithm faiss: faiss is not installed here; full and minibatch need no more")


def _fit_sklearn(
    features: np.ndarray, units: int, seed: int, algorithm: str, threads: int
) -> tuple[np.ndarray, np.ndarray, float]:
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    kmeans = KMeans(units, n_init=1, max_iter=100, random_state=seed)
    if algorithm == "minibatch":
        size = max(_MINIBATCH, 8 * units)
        kmeans = MiniBatchKMeans(units, n_init=1, max_iter=100, batch_size=size, init_size=3 * size, random_state=seed)
    with threadpool_limits(limits=threads):
        kmeans.fit(features if algorithm == "minibatch" else np.asarray(features))
    return kmeans.cluster_centers_, kmeans.labels_, kmeans.inertia_


def _fit_faiss(features: np.ndarray, units: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    import faiss

    features = np.ascontiguousarray(features)
    kmeans = faiss.Kmeans(features.shape[1], units, niter=100, seed=seed, max_points_per_centroid=len(features))
    kmeans.train(features)
    distances, labels = kmeans.index.search(features, 1)
    return kmeans.centroids, labels[:, 0].astype(np.int64), float(distances.sum())
