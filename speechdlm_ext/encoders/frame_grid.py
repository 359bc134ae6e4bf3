"""Which samples a frame sees behind a stack of convolutions, and how long sound is cut into windows of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class FrameGrid:
    """The frames of convolutions without padding of their own, over sound with ``padding`` zeros on both sides.

    Attributes:
        layers: kernel and stride of each convolution, in samples of its input.
        padding: zeros before the first and after the last sample.
    """

    layers: tuple[tuple[int, int], ...]
    padding: int = 0

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        hop = 1
        for _, stride in self.layers:
            hop *= stride
        return hop

    @property
    def reach(self) -> int:
        """Samples that one frame sees: 400 for the convolutions of HuBERT and WavLM."""
        reach, hop = 1, 1
        for kernel, stride in self.layers:
            reach += (kernel - 1) * hop
            hop *= stride
        return reach

    @property
    def shortest(self) -> int:
        """Samples that the first frame needs."""
        return self.reach - 2 * self.padding

    def frames(self, samples: int) -> int:
        """Frames T of ``samples`` samples: ``(samples + 2 padding - reach) // hop + 1``, not less than 0."""
        return self.padded_frames(samples + 2 * self.padding)

    def padded_frames(self, samples: int) -> int:
        """Frames of ``samples`` samples that have their zeros already."""
        return max(0, (samples - self.reach) // self.hop + 1)


class Window(NamedTuple):
    """Frames ``[first, stop)`` are computed together, and ``[begin, end)`` of them are kept."""

    first: int
    stop: int
    begin: int
    end: int


@dataclass(frozen=True)
class Chunks:
    """How many frames are kept of a window, and how many before and after them it sees as well."""

    kept: int
    context: int

    def windows(self, frames: int) -> Iterator[Window]:
        """Windows that keep each of ``frames`` frames once; the last keeps up to ``kept + context``."""
        begin = 0
        while self.ready(frames - begin):
            yield self.at(begin)
            begin += self.kept
        yield Window(self.before(begin), frames, begin, frames)

    def ready(self, ahead: int) -> bool:
        """Whether so many frames are more than the last window takes."""
        return ahead > self.kept + self.context

    def at(self, begin: int) -> Window:
        """The window, not the last one, that keeps the frames from ``begin`` on."""
        return Window(self.before(begin), begin + self.kept + self.context, begin, begin + self.kept)

    def before(self, begin: int) -> int:
        """The first frame that the window from ``begin`` on sees."""
        return max(0, begin - self.context)


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Numbers of items, longest first, in batches of not more than ``most`` samples, padding included."""
    batch: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > most:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
