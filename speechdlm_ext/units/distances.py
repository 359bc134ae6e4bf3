"""Squared distances of feature frames to centroids, in float32, a bounded number of frames at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from speechdlm_ext.errors import InputError

# Numbers in one table: small enough to stay in a processor's cache until the search has read them.
_TABLE_SIZE = 512 * 1024


class CentroidDistances:
    """Tables of ``|c|² - 2 x·c``: the squared Euclidean distance but for ``|x|²``, which is the same for all centroids.

    Args:
        centroids: (K, D), float32; the tables are made on their device.

    Raises:
        InputError: a centroid is so far out that its square is beyond float32.
    """

    def __init__(self, centroids: torch.Tensor) -> None:
        # Taking the centre out keeps |c|² - 2 x·c from losing digits where all centroids lie far from the origin. It
        # is rounded to few digits, so that features of few digits (whole numbers, bf16) stay exact, and distances that
        # are equal stay equal.
        mean = centroids.mean(dim=0)
        spread = float((centroids - mean).square().mean().sqrt())
        step = 2.0 ** math.floor(math.log2(spread)) if 0 < spread < math.inf else 0.0
        self._centre = (mean / step).round() * step if step else mean
        centred = centroids - self._centre
        self._squares = centred.square().sum(dim=1)
        if not bool(torch.isfinite(self._squares).all()):
            raise InputError("centroids are too far apart for float32")
        self._transposed = centred.T
        self._farthest = float(self._squares.max().sqrt())
        self.frames_at_once = max(1, _TABLE_SIZE // max(centroids.shape))

    def tables(self, features: torch.Tensor) -> Iterator[torch.Tensor]:
        """Tables (n, K), float32, of the frames (T, D) in order; a table may be overwritten when the next one is made.

        Raises:
            InputError: a feature is not a finite number, or its distances are beyond float32.
        """
        if not features.numel():
            return
        lowest, highest = (float(bound) for bound in features.detach().aminmax())
        reach = max(abs(lowest), abs(highest)) * math.sqrt(features.shape[1])
        if not math.isfinite(reach):
            raise InputError("features are not all finite numbers")
        if 4 * reach * max(self._farthest, 1.0) > 1e38:
            raise InputError(f"features as large as {max(abs(lowest), abs(highest)):g} have no distances in float32")
        for part in features.detach().split(self.frames_at_once):
            part = part.to(self._centre.device, torch.float32) - self._centre
            yield torch.addmm(self._squares, part, self._transposed, alpha=-2)
