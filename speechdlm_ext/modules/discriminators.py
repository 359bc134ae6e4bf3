"""The discriminators of HiFi-GAN (Kong et al. 2020): of periods and of scales."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.1
# (channels as multiples of the first's, stride) of the layers of a period's discriminator; kernels of 5 frames.
_PERIOD_LAYERS = ((1, 3), (4, 3), (16, 3), (32, 3), (32, 1))
# (channels as multiples of the first's, kernel, stride, groups) of a scale's.
_SCALE_LAYERS = (
    (1, 15, 1, 1),
    (1, 41, 2, 4),
    (2, 41, 2, 16),
    (4, 41, 4, 16),
    (8, 41, 4, 16),
    (8, 41, 1, 16),
    (8, 5, 1, 1),
)


class Discriminator(nn.Module):
    """Layers of convolution; what each gives is compared, too."""

    def __init__(self, layers: Sequence[nn.Module], last: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.last = last

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judgements (B, n), near 1 for real sound, and the outputs of the layers, the last included."""
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        x = self.last(x)
        return x.flatten(1), [*features, x]


class PeriodDiscriminator(Discriminator):
    """Looks at every ``period``-th sample (section 2.3).

    Args:
        period: in samples.
        channels: of the first layer; 32 as published.
    """

    def __init__(self, period: int, channels: int = 32) -> None:
        widths = [channels * share for share, _ in _PERIOD_LAYERS]
        layers = [
            _normed(nn.Conv2d(before, width, (5, 1), (stride, 1), (2, 0)))
            for before, width, (_, stride) in zip([1, *widths], widths, _PERIOD_LAYERS, strict=False)
        ]
        super().__init__(layers, _normed(nn.Conv2d(widths[-1], 1, (3, 1), 1, (1, 0))))
        self.period = period

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge sound (B, N)."""
        x = F.pad(x[:, None], (0, -x.shape[1] % self.period), "reflect")
        return super().forward(x.unflatten(2, (-1, self.period)))


class ScaleDiscriminator(Discriminator):
    """Looks at sound that was halved in rate ``halvings`` times.

    Args:
        halvings: by averages of 4 samples, 2 apart. The one of the full rate has spectral norm, the others weight norm.
        channels: of the first layer; 128 as published.
    """

    def __init__(self, halvings: int, channels: int = 128) -> None:
        norm = _normed if halvings else nn.utils.spectral_norm
        widths = [channels * share for share, *_ in _SCALE_LAYERS]
        layers = [
            norm(nn.Conv1d(before, width, kernel, stride, kernel // 2, groups=_groups(groups, before, width)))
            for before, width, (_, kernel, stride, groups) in zip([1, *widths], widths, _SCALE_LAYERS, strict=False)
        ]
        super().__init__(layers, norm(nn.Conv1d(widths[-1], 1, 3, 1, 1)))
        self.halvings = halvings

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge sound (B, N)."""
        x = x[:, None]
        for _ in range(self.halvings):
            x = F.avg_pool1d(x, 4, 2, padding=2)
        return super().forward(x)


class Discriminators(nn.Module):
    """All of them.

    Args:
        periods: in samples.
        scales: how many, each at half the rate of the one before.
        channels: of the first layer of a period's discriminator; a scale's has four times as many.
    """

    def __init__(self, periods: Sequence[int], scales: int, channels: int = 32) -> None:
        super().__init__()
        of_periods = [PeriodDiscriminator(period, channels) for period in periods]
        of_scales = [ScaleDiscriminator(halvings, 4 * channels) for halvings in range(scales)]
        self.parts = nn.ModuleList([*of_periods, *of_scales])

    def forward(self, wave: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """For each discriminator, judgements (B, n) of sound (B, N) and the outputs of its layers."""
        judged = [part(wave) for part in self.parts]
        return [judgement for judgement, _ in judged], [features for _, features in judged]


def _normed(module: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.nn.utils.weight_norm` is deprecated")  # as in the generator
        return nn.utils.weight_norm(module)


def _groups(groups: int, before: int, after: int) -> int:
    """As many groups as published, or as few as divide both widths of a small one."""
    while before % groups or after % groups:
        groups //= 2
    return groups


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """What the discriminators minimise: least squares to 1 for real sound, to 0 for made (equation 1)."""
    terms = [(1 - r.float()).square().mean() + f.float().square().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).sum()


def adversarial_loss(fake: Sequence[Tensor]) -> Tensor:
    """What the generator minimises of them: least squares to 1 for what it made (equation 2)."""
    return torch.stack([(1 - judgement.float()).square().mean() for judgement in fake]).sum()


def feature_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean distance of the layers' outputs for real and made sound, summed over layers (equation 4)."""
    terms = [
        (r.detach().float() - f.float()).abs().mean()
        for of_real, of_fake in zip(real, fake, strict=True)
        for r, f in zip(of_real, of_fake, strict=True)
    ]
    return torch.stack(terms).sum()
