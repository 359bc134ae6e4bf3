"""How loud resynthesized speech is: as loud as the recording, where its units do not say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from speechdlm_ext.encoders.level import LevelMeter

_FRAMES = 50  # a second, in which levels are measured
_BLOCK_SECONDS = 60
_HIGHEST_PEAK = 0.99  # re full scale


def active_levels(blocks: Iterable[torch.Tensor], sample_rate: int) -> list[float]:
    """The active level of each channel in dB re full scale (``units.level.active_level``), from blocks (C, n)."""
    meter = LevelMeter(sample_rate // _FRAMES)
    for _ in meter.watch(blocks):
        pass
    return meter.levels()


def match_levels(sound: torch.Tensor, sample_rate: int, levels: Sequence[float]) -> torch.Tensor:
    """Give sound (C, N) these active levels in dB re full scale, one for each channel; never beyond full scale.

    Features that are relative to the level of the speech give the same units for a loud and a soft voice. In
    resynthesis the recording is at hand, and a far voice in a meeting stays as soft as it was.

    Returns:
        The sound, changed in place: hours of it are not held twice.
    """
    found = torch.tensor(active_levels(sound.split(_BLOCK_SECONDS * sample_rate, dim=1), sample_rate))
    gains = 10 ** ((torch.tensor(levels) - found) / 20)
    lowest, highest = sound.aminmax(dim=1)
    peaks = torch.maximum(-lowest, highest).clamp_min(1e-9)
    return sound.mul_(torch.minimum(gains, _HIGHEST_PEAK / peaks)[:, None])
