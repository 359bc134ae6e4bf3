"""K-means codebooks from the frames of many recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.codebook import Codebook
from speechdlm_ext.units.encoder import Encoder
from speechdlm_ext.units.level import LOWEST_LEVEL, LevelMeter
from speechdlm_ext.units.recordings import recording_blocks, recording_size


def sample_features(
    rows: Sequence[Mapping[str, Any]],
    encoder: Encoder,
    max_frames: int,
    seed: int,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda items: items,
) -> tuple[torch.Tensor, list[float]]:
    """Features of a random share of the frames of every recording, the same share of each.

    Args:
        rows: of a manifest.
        encoder: what makes the features.
        max_frames: about how many to return; all if there are fewer.
        seed: of the choice.
        progress: wraps the rows, to show how far it is.

    Returns:
        Features (n, D), and the active level of each channel that has sound, in dB re full scale.

    Raises:
        InputError: a recording cannot be read.
    """
    sizes = [recording_size(row) for row in rows]
    total = sum(encoder.frames(round(seconds * encoder.sample_rate)) * channels for seconds, channels in sizes)
    share = min(1.0, max_frames / max(total, 1))
    chosen, levels = [], []
    for index, row in enumerate(progress(rows)):
        meter = LevelMeter()
        features = encoder.encode_blocks(meter.watch(recording_blocks(row, encoder.sample_rate))).flatten(0, 1)
        levels += [level for level in meter.levels() if level > LOWEST_LEVEL]
        draw = np.random.default_rng((seed, index)).random(len(features))
        chosen.append(features[torch.from_numpy(draw < share)])
    return torch.cat(chosen), levels


def train_codebook(
    features: torch.Tensor, encoder: Encoder, units: int, seed: int, levels: Sequence[float] = ()
) -> Codebook:
    """K-means (scikit-learn; k-means++, Lloyd) on features.

    The result depends on the features and the seed alone: it runs on one thread, because sums over several come out
    in another order each time.

    Args:
        features: (n, D).
        encoder: whose features they are.
        units: number of centroids K.
        seed: of the first centroids.
        levels: active levels of the channels they come from, in dB re full scale; their median goes into the file, and
            sound that is made from units has it.

    Raises:
        InputError: K is not positive, or there are fewer different frames than K.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    different = len(torch.unique(features[: 50 * units], dim=0)) if units > 0 else 0
    if units < 1:
        raise InputError(f"{units} units: at least 1 is wanted")
    if different < units:
        different = len(torch.unique(features, dim=0))
    if different < units:
        raise InputError(f"{units} units from {different} different frames: take fewer units or more recordings")
    with threadpool_limits(limits=1):
        kmeans = KMeans(units, n_init=1, max_iter=100, random_state=seed).fit(features.numpy())
    # Centroids in order of loudness: unit 0 is silence, which makes unit files easier to read.
    centroids = torch.from_numpy(kmeans.cluster_centers_).to(torch.float32)
    order = centroids.mean(dim=1).argsort(stable=True)
    facts = {
        "seed": seed,
        "mean_square_error": float(kmeans.inertia_ / features.numel()),
        "counts": torch.bincount(torch.from_numpy(kmeans.labels_), minlength=units)[order].tolist(),
    }
    if levels:
        facts["level"] = float(np.median(levels))
    return Codebook(centroids[order], encoder.name, encoder.options, encoder.frame_rate, facts)
