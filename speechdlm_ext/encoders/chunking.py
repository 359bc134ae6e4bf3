"""Sound cut for an encoder: frames of convolutions, windows, batches of like length, normalization by blocks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import NamedTuple, TypeVar

import torch

from speechdlm_ext.errors import ShortOfMemory, is_out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

_HELD = 1 << 27  # bytes of sound that are held in memory, 35 minutes of a channel; more waits in a temporary file


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
        return prod(stride for _, stride in self.layers)

    @property
    def reach(self) -> int:
        """Samples that one frame depends on: 400 for the convolutions of HuBERT and WavLM."""
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
    """How many frames are kept of a window, and how many more it has before and after them."""

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
        """The first frame of the window that keeps frames from ``begin`` on."""
        return max(0, begin - self.context)


def group_by_length(sizes: Sequence[tuple[float, int]], most: float, padding: float = 0.1) -> list[list[int]]:
    """Batches of items that are padded to the longest of each, the longest items first.

    Args:
        sizes: length, and number of channels (rows of the batch), of each item.
        most: largest size of a batch, as its longest item's length times its channels; an item beyond it is alone.
        padding: a batch has less than this share of padding.

    Returns:
        The batches, each as the places of its items in ``sizes``; equal items keep their order.
    """
    batches: list[list[int]] = []
    longest = filled = 0.0
    channels = 0
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place][0]):
        length, count = sizes[place]
        whole = longest * (channels + count)
        fits = whole <= most and whole - filled - length * count < padding * whole
        if batches and fits:
            batches[-1].append(place)
        else:
            batches.append([place])
            longest, filled, channels = length, 0.0, 0
        filled += length * count
        channels += count
    return batches


def by_halves(items: Sequence[Item], work: Callable[[Sequence[Item]], Result]) -> list[Result]:
    """``[work(items)]``, or, where that runs out of memory, what it gives for one half after the other.

    Raises:
        MemoryError, RuntimeError, ShortOfMemory: there is not enough memory for one item alone.
    """
    try:
        return [work(items)]
    except (MemoryError, RuntimeError, ShortOfMemory) as error:
        if len(items) < 2 or not (isinstance(error, ShortOfMemory) or is_out_of_memory(error)):
            raise
    # Out of the handler, so that the error's traceback keeps no tensor alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(items) // 2
    return by_halves(items[:half], work) + by_halves(items[half:], work)


class Growing:
    """Parts (C, t, …) of one recording, joined along time in one tensor that doubles when it is full.

    Small tensors that are kept while large ones come and go would leave holes in the heap: a gigabyte an hour.
    """

    def __init__(self) -> None:
        self._held = torch.zeros(1, 0)
        self._size = 0

    def add(self, part: torch.Tensor) -> None:
        """Append a part."""
        size = self._size + part.shape[1]
        if size > self._held.shape[1] or not self._size:
            shape = (part.shape[0], max(size, 2 * self._held.shape[1]), *part.shape[2:])
            grown = part.new_empty(shape)
            if self._size:
                grown[:, : self._size] = self._held[:, : self._size]
            self._held = grown
        self._held[:, self._size : size] = part
        self._size = size

    def joined(self) -> torch.Tensor:
        """All parts (C, T, …), as a view; of none, (1, 0)."""
        return self._held[:, : self._size]


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device; from the host to a GPU by pinned memory, so that nothing waits for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor if tensor.is_pinned() else tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def normalized_blocks(blocks: Iterable[torch.Tensor], eps: float = 1e-5) -> Iterator[torch.Tensor]:
    """The blocks (C, n), float32, at mean 0 and variance 1 in each channel, over all of them, as layer norm does it."""
    held: list[torch.Tensor] = []
    coming, size = iter(blocks), 0
    for block in coming:
        held.append(block)
        size += 4 * block.numel()
        if size > _HELD:
            yield from _by_way_of_a_file(chain(held, coming), eps)
            return
    if size:
        # The very function that fairseq normalizes with: digital silence makes much of its last bits.
        sound = torch.cat(held, dim=1)
        yield torch.nn.functional.layer_norm(sound, sound.shape[1:], eps=eps)


def _by_way_of_a_file(blocks: Iterable[torch.Tensor], eps: float) -> Iterator[torch.Tensor]:
    totals, squares, sizes, channels = torch.zeros(()), torch.zeros(()), [], 0
    with tempfile.TemporaryFile() as file:
        for block in blocks:
            channels = block.shape[0]
            totals = totals + block.double().sum(dim=1)
            squares = squares + block.double().square().sum(dim=1)
            sizes.append(block.shape[1])
            file.write(block.contiguous().numpy().tobytes())
        mean = totals / sum(sizes)
        scale = (squares / sum(sizes) - mean.square()).clamp_min(0).add(eps).rsqrt()
        file.seek(0)
        for size in filter(None, sizes):
            block = torch.frombuffer(bytearray(file.read(4 * channels * size)), dtype=torch.float32)
            yield ((block.view(channels, size) - mean[:, None]) * scale[:, None]).float()
