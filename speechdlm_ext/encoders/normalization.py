"""Sound that comes in blocks, brought to mean 0 and variance 1 as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain

import torch

_HELD = 1 << 27  # bytes of sound that are held in memory, 35 minutes of a channel; more waits in a temporary file


def normalized_blocks(blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The blocks (C, n), float32, at mean 0 and variance 1 in each channel, over all of them, as layer norm does it."""
    held: list[torch.Tensor] = []
    coming, size = iter(blocks), 0
    for block in coming:
        held.append(block)
        size += 4 * block.numel()
        if size > _HELD:
            yield from _by_way_of_a_file(chain(held, coming))
            return
    if size:
        # The very function that fairseq normalizes with: digital silence makes much of its last bits.
        sound = torch.cat(held, dim=1)
        yield torch.nn.functional.layer_norm(sound, sound.shape[1:])


def _by_way_of_a_file(blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    totals, squares, sizes, channels = torch.zeros(()), torch.zeros(()), [], 0
    with tempfile.TemporaryFile() as file:
        for block in blocks:
            channels = block.shape[0]
            totals = totals + block.double().sum(dim=1)
            squares = squares + block.double().square().sum(dim=1)
            sizes.append(block.shape[1])
            file.write(block.contiguous().numpy().tobytes())
        mean = totals / sum(sizes)
        scale = (squares / sum(sizes) - mean.square()).clamp_min(0).add(1e-5).rsqrt()
        file.seek(0)
        for size in filter(None, sizes):
            block = torch.frombuffer(bytearray(file.read(4 * channels * size)), dtype=torch.float32)
            yield ((block.view(channels, size) - mean[:, None]) * scale[:, None]).float()
