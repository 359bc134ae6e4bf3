"""K-means codebooks: features to units, and the file that carries them with the encoder that they belong to."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.manifest import atomic_write
from speechdlm_ext.units.encoder import Encoder, build_encoder

# Frames compared with all centroids at once: bounds the memory of the table of distances.
_FRAMES_AT_ONCE = 8192


class Codebook:
    """K centroids in the feature space of one encoder.

    Args:
        centroids: (K, D), any float type; kept in float32.
        encoder: name of the encoder whose features these are.
        options: that encoder's options.
        frame_rate: of the features, in Hz.
        extra: further facts to keep in the file (values that JSON can hold), such as ``level``, the usual active level
            of the recordings that it was trained on, in dB re full scale.

    Raises:
        InputError: the centroids are not a table of finite numbers.
    """

    def __init__(
        self,
        centroids: torch.Tensor,
        encoder: str,
        options: dict[str, Any],
        frame_rate: float,
        extra: dict[str, Any] | None = None,
    ) -> None:
        if centroids.dim() != 2 or not centroids.numel():
            raise InputError(f"a codebook is a table (K, D), found shape {tuple(centroids.shape)}")
        self.centroids = centroids.detach().to("cpu", torch.float32).contiguous()
        if not bool(torch.isfinite(self.centroids).all()):
            raise InputError("a codebook must be of finite numbers")
        self.encoder = encoder
        self.options = dict(options)
        self.frame_rate = float(frame_rate)
        self.extra = dict(extra or {})

    @property
    def units(self) -> int:
        """The number of units K."""
        return self.centroids.shape[0]

    @property
    def dim(self) -> int:
        """The width D of the features."""
        return self.centroids.shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that tell codebooks apart: of the centroids, the encoder and its options."""
        digest = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode())
        digest.update(self.centroids.numpy().tobytes())
        return digest.hexdigest()[:12]

    def quantize(self, features: torch.Tensor) -> torch.Tensor:
        """The nearest centroid of each frame, by Euclidean distance in float32; the lowest unit where several are.

        Args:
            features: (T, D).

        Returns:
            Units (T,), int64.

        Raises:
            InputError: the features have another width, or are not finite.
        """
        if features.dim() != 2 or features.shape[1] != self.dim:
            raise InputError(
                f"features of shape {tuple(features.shape)} do not fit a codebook of width {self.dim} "
                f"(encoder {self.encoder}): encode with the codebook's own encoder"
            )
        if not bool(torch.isfinite(features).all()):
            raise InputError("features are not all finite numbers")
        # Taking the mean out keeps |c|² - 2 x·c from losing digits where all centroids lie far from the origin.
        centre = self.centroids.mean(dim=0)
        centroids = self.centroids - centre
        squares = centroids.square().sum(dim=1)
        parts = features.to(torch.float32).split(_FRAMES_AT_ONCE)
        return torch.cat([torch.addmm(squares, part - centre, centroids.T, alpha=-2).argmin(dim=1) for part in parts])

    def build_encoder(self) -> Encoder:
        """The encoder that this codebook belongs to.

        Raises:
            InputError: there is none of this name, or its width or frame rate is not the codebook's.
        """
        encoder = build_encoder(self.encoder, self.options)
        self.check_encoder(encoder)
        return encoder

    def check_encoder(self, encoder: Encoder) -> None:
        """Raise an InputError that names both, where the widths or frame rates of codebook and encoder differ."""
        if encoder.dim != self.dim or encoder.frame_rate != self.frame_rate:
            raise InputError(
                f"the codebook is for {self.encoder} features of width {self.dim} at {self.frame_rate:g} Hz, the "
                f"encoder {encoder.name} gives width {encoder.dim} at {encoder.frame_rate:g} Hz"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all."""
        from safetensors.torch import save

        # One entry: safetensors writes several in any order, and equal codebooks are to be equal files.
        metadata = {"facts": json.dumps({**self._identity, "extra": self.extra}, sort_keys=True)}
        with atomic_write(path, "wb") as file:
            file.write(save({"codebook": self.centroids}, metadata=metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Codebook:
        """Read a file that ``save`` wrote.

        Raises:
            InputError: the file is missing, or is not such a codebook.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; data_prep/train_codebook.py makes codebooks")
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                metadata = file.metadata() or {}
                names = list(file.keys())
                if "codebook" not in names:
                    raise InputError(f"{path} has no tensor named codebook (it has {', '.join(names) or 'none'})")
                centroids = file.get_tensor("codebook")
            facts = json.loads(metadata["facts"])
            facts = {key: facts[key] for key in ("encoder", "options", "frame_rate", "extra")}
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file ({error})") from None
        except KeyError as error:
            raise InputError(f"{path} does not say its {error.args[0]}: it is not a codebook of ours") from None
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: metadata that cannot be read ({error})") from None
        return cls(centroids, **facts)

    @property
    def _identity(self) -> dict[str, Any]:
        return {"encoder": self.encoder, "options": self.options, "frame_rate": self.frame_rate}
