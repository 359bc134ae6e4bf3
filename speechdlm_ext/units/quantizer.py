"""Features to units that last: the duration-penalized quantizer of DP-SLM."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.codebook import Codebook
from speechdlm_ext.units.distances import CentroidDistances
from speechdlm_ext.units.search import PathSearch


class DPDPQuantizer(torch.nn.Module):
    """The units z that minimise ``Σ_t |x_t - c_{z_t}|² + λ · (number of changes of unit)``, exactly.

    ``state_dict`` holds one tensor, ``codebook`` (K, D), as the published quantizer's does.

    Args:
        codebook: a codebook, or its centroids (K, D).
        duration_penalty: λ, in units of squared distance; 0 gives the nearest centroid of each frame.
        num_neighbors: in each frame only so many nearest centroids may be used (the paper: 5 % of K); None for all.

    Raises:
        InputError: λ is negative or not finite, or ``num_neighbors`` is not 1 to K.
    """

    def __init__(
        self, codebook: Codebook | torch.Tensor, duration_penalty: float, num_neighbors: int | None = None
    ) -> None:
        super().__init__()
        centroids = (codebook if isinstance(codebook, Codebook) else Codebook(codebook)).centroids
        if not (math.isfinite(duration_penalty) and duration_penalty >= 0):
            raise InputError(f"duration penalty {duration_penalty:g}: 0 or more is wanted")
        if num_neighbors is not None and not 1 <= num_neighbors <= len(centroids):
            raise InputError(
                f"num_neighbors {num_neighbors}: 1 to {len(centroids)}, the size of the codebook, is wanted"
            )
        self.codebook = torch.nn.Parameter(centroids.clone(), requires_grad=False)
        self.duration_penalty = float(duration_penalty)
        self.num_neighbors = num_neighbors

    def forward(self, features: torch.Tensor, lengths: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantize one utterance or a batch.

        Args:
            features: (T, D), or (B, T, D).
            lengths: (B,), frames of each utterance of a batch; all T if not given.

        Returns:
            The centroids of the units, in the features' shape, type and device, with the gradient of the features
            (straight-through), and the units (T,) or (B, T), int64, duplicated: one a frame. Beyond its length an
            utterance has the unit -1 and quantized features of 0.

        Raises:
            InputError: features of another width or shape or that are not finite; lengths that do not fit.
        """
        if features.dim() == 2 and lengths is None:
            units = self.units(features)
        elif features.dim() == 3:
            counts = self._counts(features, lengths)
            found = self.units_batch([row[:count] for row, count in zip(features, counts, strict=True)])
            units = torch.full(features.shape[:2], -1, device=features.device)
            for row, some in zip(units, found, strict=True):
                row[: len(some)] = some
        else:
            raise InputError(f"features of shape {tuple(features.shape)}: (T, D), or (B, T, D) with lengths, is wanted")
        quantized = self.codebook.to(features)[units.to(self.codebook.device).clamp_min(0)].to(features.device)
        quantized = quantized.masked_fill(units.to(features.device)[..., None] < 0, 0)
        return features + (quantized - features).detach(), units

    def units(self, features: torch.Tensor) -> torch.Tensor:
        """The units (T,), int64, on the features' device, of one utterance (T, D)."""
        return self.units_batch([features])[0]

    def units_batch(self, utterances: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The units (T_i,) of each of several utterances (T_i, D), which may differ in length."""
        return [self._search(features) for features in utterances]

    def _search(self, features: torch.Tensor) -> torch.Tensor:
        if features.dim() != 2 or features.shape[1] != self.codebook.shape[1]:
            raise InputError(
                f"features of shape {tuple(features.shape)} do not fit a codebook of width {self.codebook.shape[1]}"
            )
        search = PathSearch(len(self.codebook), self.duration_penalty, self.num_neighbors)
        for table in CentroidDistances(self.codebook.detach()).tables(features):
            search.add(table)
        return search.units().to(features.device)

    def _counts(self, features: torch.Tensor, lengths: torch.Tensor | None) -> list[int]:
        if lengths is None:
            return [features.shape[1]] * len(features)
        counts = [int(length) for length in lengths]
        if len(counts) != len(features) or min(counts, default=0) < 0 or max(counts, default=0) > features.shape[1]:
            raise InputError(f"lengths {counts} do not fit features of shape {tuple(features.shape)}")
        return counts

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        units, dim = self.codebook.shape
        return f"K={units}, D={dim}, duration_penalty={self.duration_penalty:g}, num_neighbors={self.num_neighbors}"
