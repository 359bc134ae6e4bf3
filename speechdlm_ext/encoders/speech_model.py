"""What HuBERT and WavLM have in common: convolutions over sound, positions by a convolution, transformer blocks.

A batch of sounds of different lengths gives what each gives alone. Three things would be in the way and are seen to:
the first layer's group norm averages over time, the positions' batch norm turns the zeros of padding into something
else, and attention looks at padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

Stage = tuple[nn.Conv1d, "nn.Module | None"]


class SpeechModel(nn.Module):
    """The blocks that are needed of a speech model; what differs between models is in the methods below.

    Attributes:
        stages: the convolutions over the sound, each with its norm.
        dtype: what all but the first convolution computes in; that one, and its norm, stay in float32, because
            sound in bfloat16 would have noise 50 dB below it.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        # The modules themselves belong to the subclass, under their published names.
        self.stages = tuple(stages)
        self.dtype = torch.float32

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Norm and projection of the convolutions' output (B, T, C) to the blocks' width (B, T, D)."""
        raise NotImplementedError

    def positions(self, x: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        """What tells the blocks about positions (B, T, D); ``padding`` (B, T) is true beyond the end."""
        raise NotImplementedError

    def transform(self, x: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        """The blocks, on (B, T, D)."""
        raise NotImplementedError

    def compute_in(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move there, and compute in ``dtype`` from now on."""
        self.to(device=device, dtype=dtype)
        for module in self.stages[0]:
            if module is not None:
                module.float()
        self.dtype = dtype

    def forward(self, waves: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Features (B, T, D) of sounds (B, N), of which ``lengths`` samples count; beyond their frames, anything."""
        x, frames = self._convolve(waves, lengths)
        x = self.project(x)
        padding = None
        if min(frames) < x.shape[1]:
            padding = torch.arange(x.shape[1], device=x.device) >= torch.tensor(frames, device=x.device)[:, None]
            x = x.masked_fill(padding[..., None], 0)
        return self.transform(x + self.positions(x, padding), padding)

    def _convolve(self, waves: torch.Tensor, lengths: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """The convolutions' output (B, T, C), and how many of the frames are of each sound."""
        x, frames = waves[:, None], list(lengths)
        for conv, norm in self.stages:
            x = conv(x)
            frames = [(length - conv.kernel_size[0]) // conv.stride[0] + 1 for length in frames]
            if isinstance(norm, nn.GroupNorm) and min(frames) < x.shape[2]:
                # One by one: the largest tensor there is, which masked means would need several copies of.
                for sound, length in zip(x, frames, strict=True):
                    sound[:, :length] = norm(sound[None, :, :length])[0]
            elif norm is not None:
                x = norm(x)
            x = nn.functional.gelu(x).to(self.dtype)
        return x.transpose(1, 2), frames
