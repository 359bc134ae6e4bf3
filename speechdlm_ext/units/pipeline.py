"""Encoder, codebook and quantizer together: what turns sound into units."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from speechdlm_ext.encoders.base import Encoder, build_encoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.devices import open_device
from speechdlm_ext.units.codebook import Codebook
from speechdlm_ext.units.codebook_files import load_codebook
from speechdlm_ext.units.published_pairs import published_pair
from speechdlm_ext.units.quantizer import DPDPQuantizer


@dataclass(frozen=True)
class UnitPipeline:
    """What turns sound into units.

    Attributes:
        codebook: with the facts of the encoder.
        encoder: on its device.
        quantizer: None for the nearest centroid.
        settings: what the units depend on beside these.
    """

    codebook: Codebook
    encoder: Encoder
    quantizer: DPDPQuantizer | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        encoder: str | None = None,
        options: Mapping[str, Any] | None = None,
        duration_penalty: str | float = 0,
        num_neighbors: int | None = None,
        device: str | None = None,
        dtype: str = "float32",
    ) -> UnitPipeline:
        """Load a codebook and the encoder that it belongs to.

        Args:
            path: of the codebook.
            encoder: its name, where the codebook does not say.
            options: of the encoder, in place of the codebook's.
            duration_penalty: λ, in squared distance, or the name of a published pair, ``k500-l4500``.
            num_neighbors: in each frame only so many nearest codes are used; None for all, or a published pair's.
            device, dtype: as for :func:`place_encoder`.

        Raises:
            InputError: a file is missing or wrong, or codebook, encoder and penalty do not fit each other.
        """
        codebook = load_codebook(path)
        penalty, neighbors = _penalty(duration_penalty, num_neighbors, codebook.num_units)
        if not codebook.encoder and encoder is None:
            raise InputError(f"{path} does not say which encoder it belongs to: pass --encoder")
        if encoder is not None and codebook.encoder not in ("", encoder):
            raise InputError(f"{path} is for the encoder {codebook.encoder}, not for {encoder}")
        if codebook.encoder:
            built = codebook.build_encoder(options)
        else:
            built = build_encoder(str(encoder), options)
            codebook = codebook.for_encoder(built)
        quantizer = None
        if penalty > 0 or neighbors is not None:
            quantizer = DPDPQuantizer(codebook, penalty, neighbors)
        settings = {} if dtype == "float32" else {"dtype": dtype}
        return cls(codebook, place_encoder(built, device, dtype), quantizer, settings)


def place_encoder(encoder: Encoder, device: str | None = None, dtype: str = "float32") -> Encoder:
    """The encoder on a device (by default a GPU where there is one) and in a precision, by their names in torch.

    Raises:
        InputError: there is no such device.
    """
    return encoder.to(open_device(device), getattr(torch, dtype))


def _penalty(given: str | float, neighbors: int | None, num_units: int) -> tuple[float, int | None]:
    """λ and neighbors from a number or the name of a published pair."""
    try:
        penalty = float(given)
    except ValueError:
        pair = published_pair(str(given), num_units)
        return pair.duration_penalty, pair.num_neighbors if neighbors is None else neighbors
    if not 0 <= penalty < float("inf"):
        raise InputError(f"--duration-penalty {given}: a number from 0 up is expected")
    return penalty, neighbors
