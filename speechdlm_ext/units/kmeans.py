"""K-means codebooks from the frames of many recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from speechdlm_ext.encoders.base import Encoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.units.codebook import Codebook
from speechdlm_ext.units.sample_frames import draw_features, sampling_share

ALGORITHMS = ("full", "minibatch", "faiss")
# Frames of a minibatch: k-means++ on it, and each step, see every one of 1000 centroids several times.
_MINIBATCH = 16384


def sample_features(
    rows: Sequence[Mapping[str, Any]], encoder: Encoder, max_frames: int, seed: int
) -> tuple[torch.Tensor, list[float]]:
    """Features of a random share of the frames of every recording, the same share of each, in memory.

    Args:
        rows: of a manifest.
        encoder: what makes the features.
        max_frames: about how many to return; all if there are fewer.
        seed: of the choice.

    Returns:
        Features (n, D), and the active level of each channel that has sound, in dB re full scale.

    Raises:
        InputError: a recording cannot be read.
    """
    chosen, levels = [], []
    for drawn in draw_features(list(enumerate(rows)), encoder, sampling_share(rows, encoder, max_frames), seed):
        if drawn.error is not None:
            raise InputError(drawn.error)
        chosen.append(drawn.features)
        levels += drawn.levels
    return torch.cat(chosen), levels


def train_codebook(
    features: torch.Tensor | np.ndarray,
    encoder: Encoder,
    units: int,
    seed: int,
    levels: Sequence[float] = (),
    algorithm: str = "full",
) -> Codebook:
    """K-means (k-means++, then Lloyd's steps) on features.

    The result depends on the features, the seed and the algorithm alone: scikit-learn runs on one thread, because sums
    over several come out in another order each time.

    Args:
        features: (n, D); ``minibatch`` reads them from a mapped file as it needs them, the others hold them in memory.
        encoder: whose features they are.
        units: number of centroids K.
        seed: of the first centroids.
        levels: active levels of the channels they come from, in dB re full scale; their median goes into the file, and
            sound that is made from units has it.
        algorithm: ``full``, all frames in each step (scikit-learn), ``minibatch``, some of them (scikit-learn), or
            ``faiss``, all of them, by that library, where it is installed.

    Raises:
        InputError: K is not positive, there are fewer different frames than K, or there is no such algorithm.
    """
    if units < 1:
        raise InputError(f"{units} units: at least 1 is wanted")
    check_algorithm(algorithm)
    features = features.numpy() if isinstance(features, torch.Tensor) else features
    different = len(np.unique(features[: 50 * units], axis=0))
    if different < units:
        different = len(np.unique(features, axis=0))
    if different < units:
        raise InputError(f"{units} units from {different} different frames: take fewer units or more recordings")
    fit = {"full": _fit_full, "minibatch": _fit_minibatch, "faiss": _fit_faiss}[algorithm]
    found, labels, error = fit(features, units, seed)
    # Centroids in order of loudness: unit 0 is silence, which makes unit files easier to read.
    centroids = torch.from_numpy(found).to(torch.float32)
    order = centroids.mean(dim=1).argsort(stable=True)
    facts = {
        "seed": seed,
        "mean_square_error": float(error / features.size),
        "counts": torch.bincount(torch.from_numpy(labels), minlength=units)[order].tolist(),
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


def _fit_full(features: np.ndarray, units: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        kmeans = KMeans(units, n_init=1, max_iter=100, random_state=seed).fit(np.asarray(features))
    return kmeans.cluster_centers_, kmeans.labels_, kmeans.inertia_


def _fit_minibatch(features: np.ndarray, units: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    size = max(_MINIBATCH, 8 * units)
    kmeans = MiniBatchKMeans(units, n_init=1, max_iter=100, batch_size=size, init_size=3 * size, random_state=seed)
    with threadpool_limits(limits=1):
        kmeans.fit(features)
    return kmeans.cluster_centers_, kmeans.labels_, kmeans.inertia_


def _fit_faiss(features: np.ndarray, units: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    import faiss

    features = np.ascontiguousarray(features)
    kmeans = faiss.Kmeans(features.shape[1], units, niter=100, seed=seed, max_points_per_centroid=len(features))
    kmeans.train(features)
    distances, labels = kmeans.index.search(features, 1)
    return kmeans.centroids, labels[:, 0].astype(np.int64), float(distances.sum())
