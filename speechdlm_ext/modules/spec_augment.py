"""Augmentation of spectrograms as NeMo has it: cutout (DeVries and Taylor 2017), SpecAugment (Park et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

# What the published configurations set; arguments of :class:`SpectrogramAugmentation`.
PUBLISHED: dict[str, dict[str, Any]] = {
    "quartznet": {"rect_masks": 5, "rect_time": 120, "rect_freq": 50},
    "matchboxnet": {
        "freq_masks": 2, "freq_width": 15, "time_masks": 2, "time_width": 25,
        "rect_masks": 5, "rect_time": 25, "rect_freq": 15,
    },
    "marblenet": {
        "freq_masks": 2, "freq_width": 15, "time_masks": 2, "time_width": 25,
        "rect_masks": 5, "rect_time": 25, "rect_freq": 15,
    },
    "marblenet_20ms": {"freq_masks": 2, "freq_width": 27, "time_masks": 10, "time_width": 0.05},
}  # fmt: skip


class SpectrogramAugmentation(nn.Module):
    """Set rectangles, bands and segments of a spectrogram to zero, in training only.

    A row's masks depend on its own numbers and its own length, never on its neighbours: NeMo instead places rectangles
    over the padded batch. Nothing waits for the device.

    Args:
        freq_masks: bands of frequency.
        time_masks: segments of time.
        freq_width: a band is at most this wide, less one.
        time_width: the same in frames; a float is a share of the row's frames.
        rect_masks: rectangles.
        rect_time: largest width of a rectangle, frames.
        rect_freq: largest height of a rectangle, bands.
    """

    def __init__(
        self,
        freq_masks: int = 0,
        time_masks: int = 0,
        freq_width: int = 10,
        time_width: int | float = 10,
        rect_masks: int = 0,
        rect_time: int = 5,
        rect_freq: int = 20,
    ) -> None:
        super().__init__()
        self.freq_masks, self.time_masks, self.freq_width, self.time_width = (
            freq_masks, time_masks, freq_width, time_width,
        )  # fmt: skip
        self.rect_masks, self.rect_time, self.rect_freq = rect_masks, rect_time, rect_freq
        self.numbers = 4 * rect_masks + 2 * (time_masks + freq_masks)  # uniform numbers that a row needs

    def forward(
        self, features: torch.Tensor, lengths: torch.Tensor, numbers: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Augment a batch.

        Args:
            features: (B, F, T).
            lengths: frames of each row (B,).
            numbers: uniform in [0, 1), (B, ``self.numbers``), see :func:`uniform_numbers`; by default torch's.

        Returns:
            (B, F, T); in evaluation the same tensor.
        """
        if not self.training or not self.numbers:
            return features
        if numbers is None:
            numbers = torch.rand(len(features), self.numbers, device=features.device)
        return features.masked_fill(self.mask(numbers, lengths, *features.shape[1:]), 0.0)

    def mask(self, numbers: torch.Tensor, lengths: torch.Tensor, bands: int, frames: int) -> torch.Tensor:
        """What is set to zero (B, F, T); arguments as of :meth:`forward`."""
        rect, time, freq = numbers.split([4 * self.rect_masks, 2 * self.time_masks, 2 * self.freq_masks], dim=1)
        lengths = lengths.to(numbers)[:, None]
        mask = numbers.new_zeros(len(numbers), bands, frames, dtype=torch.bool)
        if self.rect_masks:
            low, first, height, width = rect.unflatten(1, (self.rect_masks, 4)).unbind(-1)
            low = (low * (max(bands - self.rect_freq, 0) + 1)).floor()
            first = (first * ((lengths - self.rect_time).clamp(min=0) + 1)).floor()
            height, width = (height * (self.rect_freq + 1)).floor(), (width * (self.rect_time + 1)).floor()
            mask |= (_spans(low, height, bands)[..., None] & _spans(first, width, frames)[:, :, None]).any(1)
        if self.time_masks:
            longest = self.time_width * lengths if isinstance(self.time_width, float) else self.time_width
            mask |= _bands(time, longest, lengths, frames)[:, None]
        if self.freq_masks:
            mask |= _bands(freq, self.freq_width, bands, bands)[..., None]
        return mask


_OPTIONS = ("freq_masks", "time_masks", "freq_width", "time_width", "rect_masks", "rect_time", "rect_freq")


def spec_augmentation(section: Mapping[str, Any] | None) -> SpectrogramAugmentation:
    """Of the section ``spec_augment`` of a configuration, or one that masks nothing."""
    return SpectrogramAugmentation(**{name: one for name, one in (section or {}).items() if name in _OPTIONS})


def _bands(numbers: torch.Tensor, longest: Any, length: Any, count: int) -> torch.Tensor:
    """Bands of 0 to ``longest`` - 1 within ``length`` (B, count)."""
    width, start = numbers.chunk(2, dim=1)
    width = (width * longest).floor()
    return _spans((start * (length - width)).floor(), width, count).any(1)


def _spans(start: torch.Tensor, width: torch.Tensor, count: int) -> torch.Tensor:
    """Which of ``count`` places each span (B, masks) covers: (B, masks, count)."""
    places = torch.arange(count, device=start.device)
    return (places >= start[..., None]) & (places < (start + width)[..., None])


def uniform_numbers(seed: Sequence[int], count: int) -> torch.Tensor:
    """Numbers for one row by its own seed, for example (seed, epoch, index of the row): uniform in [0, 1), (count,)."""
    return torch.from_numpy(np.random.default_rng(np.random.SeedSequence(tuple(seed))).random(count, np.float32))
