"""Sound that comes in blocks, brought to mean 0 and variance 1 as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator

import torch

_SPOOLED = 1 << 28  # bytes of sound that wait in memory until its level is known; more wait in a temporary file


def normalized_blocks(blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The blocks (C, n) at mean 0 and variance 1 in each channel, over all of them, as layer norm does it."""
    totals, squares, sizes, channels = torch.zeros(()), torch.zeros(()), [], 0
    with tempfile.SpooledTemporaryFile(max_size=_SPOOLED) as file:
        for block in blocks:
            channels = block.shape[0]
            totals = totals + block.double().sum(dim=1)
            squares = squares + block.double().square().sum(dim=1)
            sizes.append(block.shape[1])
            file.write(block.contiguous().numpy().tobytes())
        mean = totals / max(1, sum(sizes))
        scale = (squares / max(1, sum(sizes)) - mean.square()).clamp_min(0).add(1e-5).rsqrt()
        file.seek(0)
        for size in sizes:
            if not size:
                continue
            block = torch.frombuffer(bytearray(file.read(4 * channels * size)), dtype=torch.float32)
            yield ((block.view(channels, size) - mean[:, None]) * scale[:, None]).float()
