"""The duration-penalized quantizer for sound that is still coming."""

from __future__ import annotations

import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.quantizer import DPDPQuantizer


class StreamingQuantizer:
    """Takes frames as they come and gives out units once no later frame can change them.

    ``units = torch.cat([*(stream.push(part) for part in parts), stream.finish()])``

    Without ``latency`` the units are those of the quantizer on the whole. With it, a unit is given out at the latest
    when ``latency`` frames after its own have come, as the best path has it by then, and later paths must agree with
    it: the cost may then be above the least. Neither depends on how the frames were cut into pushes.

    Args:
        quantizer: codebook, penalty and neighbours.
        latency: in frames (50 a second for most encoders); None to wait for as long as it takes.

    Raises:
        InputError: ``latency`` is negative.
    """

    def __init__(self, quantizer: DPDPQuantizer, latency: int | None = None) -> None:
        if latency is not None and latency < 0:
            raise InputError(f"latency {latency}: 0 frames or more are wanted")
        self._quantizer = quantizer
        self._latency = latency
        self._search = quantizer.search()

    @property
    def pending(self) -> int:
        """The number of frames whose units have not been given out."""
        return self._search.frames - self._search.released

    def push(self, features: torch.Tensor) -> torch.Tensor:
        """Take the next frames (n, D), n from 0 up; returns the units (m,), int64, that are certain now.

        Raises:
            InputError: features of another width, or that are not finite.
        """
        search = self._search
        given = []
        for table in self._quantizer.distances(features.device).tables([features]):
            for frames in table.cpu().split(len(table) if self._latency is None else 1):
                search.add(frames)
                if self._latency is not None and self.pending > self._latency:
                    given.append(search.release(max(search.agreed(), search.frames - self._latency)))
            given.append(search.release(search.agreed()))
        return torch.cat([torch.zeros(0, dtype=torch.int64), *given])

    def finish(self) -> torch.Tensor:
        """The units of the frames that are left; the next push begins another utterance."""
        units = self._search.units()
        self._search = self._quantizer.search()
        return units
