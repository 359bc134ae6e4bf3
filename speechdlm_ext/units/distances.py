"""Squared distances of feature frames to centroids, in float32, a bounded number of frames at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from speechdlm_ext.errors import InputError

NOT_FINITE = "features that are not finite numbers, or too large for distances in float32"
# Numbers in one table, or in the features for it. On a CPU so few that they stay in its cache until the search has read
# them, on a GPU so many that a batch is one table, and so one copy to the host.
_TABLE_SIZE = {"cpu": 2048 * 1024, "gpu": 128 * 1024 * 1024}
# Tables are as wide as a multiple of this: matrix products of 504 columns take 5/6 of the time of those of 500.
_COLUMNS = 8


class CentroidDistances:
    """Tables of ``|c|² - 2 x·c``: the squared Euclidean distance but for ``|x|²``, which is the same for all centroids.

    Nothing here waits for a GPU: features that are not finite show in the tables.

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
        if not math.isfinite(float(self._squares.max())):
            raise InputError("centroids are too far from one another: their squared distances are beyond float32")
        beyond = -len(centred) % _COLUMNS
        self._squares = torch.nn.functional.pad(self._squares, (0, beyond), value=math.inf)
        self._transposed = torch.nn.functional.pad(centred, (0, 0, 0, beyond)).T
        size = _TABLE_SIZE["cpu" if centroids.device.type == "cpu" else "gpu"]
        self._frames_at_once = max(1, size // max(centroids.shape))

    def tables(self, utterances: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Tables (n, K'), float32, of all frames of all utterances in order, short utterances sharing a table.

        K' is K rounded up; the costs beyond K are infinite.

        Args:
            utterances: features (T_i, D) each.

        Raises:
            InputError: the features have another width.
        """
        waiting: list[torch.Tensor] = []
        count = 0
        for features in utterances:
            if features.dim() != 2 or features.shape[1] != len(self._centre):
                raise InputError(
                    f"features of shape {tuple(features.shape)} do not fit a codebook of width {len(self._centre)}: "
                    "encode with the codebook's own encoder"
                )
            for part in features.detach().split(self._frames_at_once):
                if count + len(part) > self._frames_at_once:
                    yield self._table(waiting, count)
                    waiting, count = [], 0
                waiting.append(part)
                count += len(part)
        if count:
            yield self._table(waiting, count)

    def _table(self, parts: Sequence[torch.Tensor], count: int) -> torch.Tensor:
        centred = self._centre.new_empty(count, len(self._centre))
        start = 0
        for part in parts:
            torch.sub(part, self._centre, out=centred[start : start + len(part)])
            start += len(part)
        with torch.autocast(centred.device.type, enabled=False):
            if torch.get_float32_matmul_precision() == "highest":
                return torch.addmm(self._squares, centred, self._transposed, alpha=-2)
            # The user allows products to be rounded (TF32, bf16), which is for all threads; float64 is not affected.
            squares, transposed = self._squares.double(), self._transposed.double()
            return torch.addmm(squares, centred.double(), transposed, alpha=-2).float()
