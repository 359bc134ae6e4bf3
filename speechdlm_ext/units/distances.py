"""Squared distances of feature frames to centroids, in float32, a bounded number of frames at a time."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from speechdlm_ext.errors import InputError

# Numbers in one table, or in the features for it: few enough to stay in a processor's cache until the search has read
# them, and so many that threads are not kept from work by waiting for one another.
_TABLE_SIZE = 2048 * 1024
# Tables are as wide as a multiple of this: matrix products of 504 columns take 5/6 of the time of those of 500.
_COLUMNS = 8
_precision_lock = threading.Lock()


class CentroidDistances:
    """Tables of ``|c|² - 2 x·c``: the squared Euclidean distance but for ``|x|²``, which is the same for all centroids.

    Args:
        centroids: (K, D), float32; features must be on their device.

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
        farthest = float(self._squares.max().sqrt())
        if not math.isfinite(farthest):
            raise InputError("centroids are too far from one another: their squared distances are beyond float32")
        beyond = -len(centred) % _COLUMNS
        self._squares = torch.nn.functional.pad(self._squares, (0, beyond), value=math.inf)
        self._transposed = torch.nn.functional.pad(centred, (0, 0, 0, beyond)).T
        # Features up to this have no distance, nor a part of one, that is beyond float32.
        self._largest = 1e38 / (4 * centroids.shape[1] * max(farthest, 1.0)) - float(self._centre.abs().max())
        self._frames_at_once = max(1, _TABLE_SIZE // max(centroids.shape))

    def tables(self, utterances: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Tables (n, K'), float32, of all frames of all utterances in order, short utterances sharing a table.

        K' is K rounded up; the costs beyond K are infinite.

        Args:
            utterances: features (T_i, D) each.

        Raises:
            InputError: a feature is not a finite number, or is too large for distances in float32.
        """
        waiting: list[torch.Tensor] = []
        count = 0
        for features in utterances:
            self._check_width(features)
            for part in features.detach().split(self._frames_at_once):
                self._check_range(part)
                if count + len(part) > self._frames_at_once:
                    yield self._table(waiting, count)
                    waiting, count = [], 0
                waiting.append(part)
                count += len(part)
        if count:
            yield self._table(waiting, count)

    def nearest(self, utterances: Sequence[torch.Tensor]) -> torch.Tensor:
        """The nearest centroid, int64, of all frames of all utterances in order; the lowest unit where several are."""
        found = [table.argmin(dim=1) for table in self.tables(utterances)]
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=self._centre.device)

    def _table(self, parts: Sequence[torch.Tensor], count: int) -> torch.Tensor:
        centred = self._centre.new_empty(count, len(self._centre))
        start = 0
        for part in parts:
            torch.sub(part, self._centre, out=centred[start : start + len(part)])
            start += len(part)
        with _full_precision(centred.device.type):
            return torch.addmm(self._squares, centred, self._transposed, alpha=-2)

    def _check_width(self, features: torch.Tensor) -> None:
        if features.dim() != 2 or features.shape[1] != len(self._centre):
            raise InputError(
                f"features of shape {tuple(features.shape)} do not fit a codebook of width {len(self._centre)}: "
                "encode with the codebook's own encoder"
            )

    def _check_range(self, features: torch.Tensor) -> None:
        if not features.numel():
            return
        largest = max(abs(float(bound)) for bound in features.aminmax())
        if not math.isfinite(largest):
            raise InputError("features are not all finite numbers")
        if largest > self._largest:
            raise InputError(f"features as large as {largest:g}: their squared distances are beyond float32")


@contextmanager
def _full_precision(device_type: str) -> Iterator[None]:
    """Products in float32 as such, whatever the user allows elsewhere (autocast, TF32, bf16)."""
    with torch.autocast(device_type, enabled=False):
        with _precision_lock:  # so that what is read is the user's choice, and not ours of another thread
            allowed = torch.get_float32_matmul_precision()
        if allowed == "highest":
            yield
            return
        with _precision_lock:
            torch.set_float32_matmul_precision("highest")
            try:
                yield
            finally:
                torch.set_float32_matmul_precision(allowed)
