"""What is odd about the sound of a recording: silence, clipping, DC, channels that are the same sound."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from speechdlm_ext.io.audio import dc_of

if TYPE_CHECKING:
    import numpy as np

_CLIPPED = 0.9999  # of full scale
_SAME = 0.01  # part of a channel's power that another one does not explain: 20 dB below it
_SILENT = 1e-10  # power, of full scale


class SoundCheck:
    """What is gathered over a recording, block by block.

    Args:
        sample_rate: in Hz.

    Attributes:
        frames: samples per channel so far.
        peaks: of each channel.
    """

    def __init__(self, sample_rate: int) -> None:
        self.frames = 0
        self.peaks: list[float] = []
        self._rate = sample_rate
        self._clipped = 0
        self._sums: np.ndarray | None = None
        self._products: np.ndarray | None = None

    def add(self, block: np.ndarray) -> None:
        """Take in the next block (C, n)."""
        magnitudes = abs(block)
        peaks = magnitudes.max(axis=1).tolist()
        self.peaks = list(map(max, self.peaks, peaks)) if self.peaks else peaks
        if max(peaks) >= _CLIPPED:
            self._clipped += int((magnitudes >= _CLIPPED).sum())
        exact = block.astype("float64")
        sums, products = exact.sum(axis=1), exact @ exact.T
        self._sums = sums if self._sums is None else self._sums + sums
        self._products = products if self._products is None else self._products + products
        self.frames += block.shape[1]

    def notes(self) -> list[str]:
        """What is odd, a line each; empty before any sound."""
        if self._sums is None or self._products is None:
            return []
        found = [f"channel {number} is silent" for number, peak in enumerate(self.peaks, 1) if not peak]
        if self._clipped > 1e-3 * self.frames:
            found.append(f"clipped: {self._clipped} samples at full scale")
        means, squares = self._sums / self.frames, self._products.diagonal() / self.frames
        for number, dc in enumerate(dc_of(means, squares, self.frames, self._rate).tolist(), 1):
            if dc:
                found.append(f"channel {number} has DC of {dc:.4f} of full scale, which is taken out before features")
        powers = self._products / self.frames - means[:, None] * means
        for one, two in combinations(range(len(means)), 2):
            first, second, common = (float(powers[pair]) for pair in ((one, one), (two, two), (one, two)))
            if min(first, second) > _SILENT and 1 - common * common / (first * second) < _SAME:
                gain = common / first
                how = "" if abs(gain - 1) < 0.01 else ", inverted" if abs(gain + 1) < 0.01 else f", times {gain:.3g}"
                found.append(f"channels {one + 1} and {two + 1} are the same sound{how}")
        return found
