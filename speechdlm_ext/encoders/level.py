"""The level of the speech in a channel, whatever share of the time somebody speaks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch

# ITU-T P.56 takes as active what lies within this margin (15.9 dB) below the active speech level.
_MARGIN = 10**-1.59
# A channel without any speech must not have its noise turned up to the level of speech.
LOWEST_LEVEL = -55.0


class LevelMeter:
    """Measures the active level of each channel of a stream of blocks on its way through.

    Args:
        hop: samples of a frame.
    """

    def __init__(self, hop: int = 320) -> None:
        self.hop = hop
        self._powers: list[torch.Tensor] = []

    def watch(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Pass on blocks (C, n) as they are, however long each is."""
        rest = None
        for block in blocks:
            held = block if rest is None else torch.cat((rest, block), dim=1)
            whole = held.shape[1] // self.hop * self.hop
            self._powers.append(held[:, :whole].unflatten(1, (-1, self.hop)).square().mean(dim=2))
            rest = held[:, whole:]
            yield block

    def levels(self) -> list[float]:
        """The active level of each channel that has passed, in dB re full scale (``active_level``)."""
        return [active_level(channel) for channel in torch.cat(self._powers, dim=1)] if self._powers else []


def active_level(power: torch.Tensor) -> float:
    """Level of the speech in a channel, after the idea of ITU-T P.56: the mean power of the active frames.

    Active are the frames not more than 15.9 dB below that mean itself; found by repetition from the mean of all.

    Args:
        power: mean square of each frame (T,), full scale at ±1.

    Returns:
        The level in dB re full scale (a mean square of 1); at least -55 dB, so that noise alone stays noise.
    """
    power = power.double()
    level = float(power.mean()) if len(power) else 0.0
    for _ in range(50):
        active = power[power >= level * _MARGIN]
        if level <= 0 or math.isclose(level, mean := float(active.mean()), rel_tol=1e-6):
            break
        level = mean
    return max(10 * math.log10(level), LOWEST_LEVEL) if level > 0 else LOWEST_LEVEL
