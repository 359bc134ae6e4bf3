"""The duration-penalized quantizer of DP-SLM: features to units that change only where it pays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.units.codebook import Codebook, NearestUnits, nearest, quantize_batch
from speechdlm_ext.units.distances import CentroidDistances
from speechdlm_ext.units.published_pairs import published_pair

if TYPE_CHECKING:
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
            raise InputError(f"duration penalty {duration_penalty:g}: 0 or more is expected")
        if num_neighbors is not None and num_neighbors not in range(1, len(centroids) + 1):
            raise InputError(
                f"num_neighbors {num_neighbors}: 1 to {len(centroids)}, the size of the codebook, is expected"
            )
        self.codebook = torch.nn.Parameter(centroids.clone(), requires_grad=False)
        self.duration_penalty = float(duration_penalty)
        self.num_neighbors = None if num_neighbors is None else int(num_neighbors)
        self._kept: tuple[object, CentroidDistances] | None = None

    @classmethod
    def published(cls, name: str, codebook: Codebook | torch.Tensor) -> DPDPQuantizer:
        """The quantizer of a published pair of codebook size and penalty, such as ``k500-l4500``.

        Raises:
            InputError: there is no such pair, or the codebook has another size.
        """
        centroids = codebook.centroids if isinstance(codebook, Codebook) else codebook
        pair = published_pair(name, len(centroids))
        return cls(codebook, pair.duration_penalty, pair.num_neighbors)

    def forward(self, features: torch.Tensor, lengths: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantize one utterance or a batch. Of equally good units, see the rule in :mod:`speechdlm_ext.units.search`.

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
            units = self.quantize(features)
            quantized = self._centroids(features).index_select(0, units)
        elif features.dim() == 3:
            counts = self._counts(features, lengths)
            found = self.quantize_batch([row[:count] for row, count in zip(features, counts, strict=True)])
            units = torch.full(features.shape[:2], -1, device=features.device)
            for row, some in zip(units, found, strict=True):
                row[: len(some)] = some
            beyond = units[..., None] < 0
            # The features beyond an utterance's end have no part in what comes out, and get no gradient.
            features = features.masked_fill(beyond, 0)
            quantized = self._centroids(features)[units.clamp_min(0)].masked_fill_(beyond, 0)
        else:
            raise InputError(
                f"features of shape {tuple(features.shape)}: (T, D), or (B, T, D) with lengths, is expected"
            )
        return _StraightThrough.apply(features, quantized), units

    def quantize(self, features: torch.Tensor) -> torch.Tensor:
        """The units (T,), int64, on the features' device, of one utterance (T, D)."""
        return self.quantize_batch([features])[0]

    def quantize_batch(self, utterances: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The units (T_i,), int64, of each of several utterances (T_i, D) on one device, which may differ in length.

        Distances are computed where the features are, the search runs on the CPU.

        Raises:
            InputError: features of another width, or that are not finite.
        """
        return quantize_batch(self, utterances)

    def codes(self, utterances: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """What :meth:`search` needs of the frames of utterances (T_i, D), in order, on their device."""
        tables = self._distances(utterances[0].device).tables(utterances)
        return tables if self.duration_penalty else map(nearest, tables)

    def search(self) -> PathSearch | NearestUnits:
        """What makes units of the codes of one utterance, a part at a time."""
        if not self.duration_penalty:
            return NearestUnits()
        from speechdlm_ext.units.search import PathSearch

        return PathSearch(len(self.codebook), self.duration_penalty, self.num_neighbors)

    def _distances(self, device: torch.device) -> CentroidDistances:
        """What makes tables of distances on a device; kept until the codebook changes."""
        version = 0 if self.codebook.is_inference() else self.codebook._version
        made_of = (self.codebook.data_ptr(), version, device)
        kept = self._kept  # read once, written once: several threads may be at it
        if kept is None or kept[0] != made_of:
            kept = self._kept = made_of, CentroidDistances(self.codebook.detach().to(device, torch.float32))
        return kept[1]

    def _centroids(self, features: torch.Tensor) -> torch.Tensor:
        return self.codebook.detach().to(features)

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


class _StraightThrough(torch.autograd.Function):
    """The quantized features, exactly, with the gradient of the features that they stand for."""

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None
