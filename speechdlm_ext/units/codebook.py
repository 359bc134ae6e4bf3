"""K-means codebooks: features to units, and the file that holds them with the encoder that they belong to."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from speechdlm_ext.encoders.base import Encoder, build_encoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.units.distances import NOT_FINITE, CentroidDistances


class Codebook:
    """K centroids in the feature space of one encoder.

    Args:
        centroids: (K, D), any float type; kept in float32.
        encoder: name of the encoder whose features these are; empty where the file does not say, as in codebooks that
            others have published (``for_encoder`` gives it one).
        options: that encoder's options.
        frame_rate: of the features, in Hz.
        extra: further facts to keep in the file (values that JSON can hold), such as ``level``, the usual active level
            of the recordings that it was trained on, in dB re full scale.
        identity: what tells this encoder's features from another's, for the fingerprint; the options, if not given.

    Raises:
        InputError: the centroids are not a table of finite numbers.
    """

    def __init__(
        self,
        centroids: torch.Tensor,
        encoder: str = "",
        options: Mapping[str, Any] | None = None,
        frame_rate: float = 0.0,
        extra: Mapping[str, Any] | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        if centroids.dim() != 2 or not centroids.numel():
            raise InputError(f"a codebook is a table (K, D), found shape {tuple(centroids.shape)}")
        self.centroids = centroids.detach().to("cpu", torch.float32).contiguous()
        if not bool(torch.isfinite(self.centroids).all()):
            raise InputError("a codebook must be of finite numbers")
        self.encoder = encoder
        self.options = dict(options or {})
        self.frame_rate = float(frame_rate)
        self.extra = dict(extra or {})
        self.identity = dict(self.options if identity is None else identity)
        self._distances: dict[torch.device, CentroidDistances] = {}

    @property
    def num_units(self) -> int:
        """The number of units K."""
        return self.centroids.shape[0]

    @property
    def dim(self) -> int:
        """The width D of the features."""
        return self.centroids.shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that tell codebooks apart: of the centroids, the encoder and its options."""
        whose = {"encoder": self.encoder, "options": self.identity, "frame_rate": self.frame_rate}
        digest = hashlib.sha256(json.dumps(whose, sort_keys=True).encode())
        digest.update(self.centroids.numpy().tobytes())
        return digest.hexdigest()[:12]

    def quantize(self, features: torch.Tensor) -> torch.Tensor:
        """The nearest centroid of each frame, by Euclidean distance in float32; the lowest unit where several are.

        Args:
            features: (T, D), on any device.

        Returns:
            Units (T,), int64, on the features' device.

        Raises:
            InputError: the features have another width, or are not finite.
        """
        return self.quantize_batch([features])[0]

    def quantize_batch(self, utterances: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The units (T_i,) of each of several utterances (T_i, D) on one device, as :meth:`quantize` gives them."""
        return quantize_batch(self, utterances)

    def codes(self, utterances: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The nearest units of the frames of utterances (T_i, D), in order; -1 for features that are not finite.

        They are on the features' device, and nothing here waits for a GPU.
        """
        device = utterances[0].device
        if device not in self._distances:
            self._distances[device] = CentroidDistances(self.centroids.to(device))
        return map(nearest, self._distances[device].tables(utterances))

    def search(self) -> NearestUnits:
        """What makes units of the codes of one utterance, a part at a time."""
        return NearestUnits()

    def for_encoder(self, encoder: Encoder) -> Codebook:
        """This codebook with the facts of the encoder that it is used with; itself where it has them already.

        Raises:
            InputError: the encoder gives features of another width, or the codebook belongs to another encoder.
        """
        if self.encoder:
            self.check_encoder(encoder)
            return self
        if encoder.dim != self.dim:
            raise InputError(
                f"the codebook is for features of width {self.dim}, the encoder {encoder.name} gives width "
                f"{encoder.dim}: take the encoder and layer that the codebook was made with"
            )
        identity = getattr(encoder, "identity", encoder.options)
        return Codebook(self.centroids, encoder.name, encoder.options, encoder.frame_rate, self.extra, identity)

    def build_encoder(self, overrides: Mapping[str, Any] | None = None) -> Encoder:
        """The encoder that this codebook belongs to.

        Args:
            overrides: options that take the place of the codebook's, such as ``checkpoint`` where the file lies
                elsewhere by now.

        Raises:
            InputError: the codebook does not say, there is no encoder of this name, or its width, frame rate or
                weights are not the codebook's.
        """
        if not self.encoder:
            raise InputError("the codebook does not say which encoder it belongs to: name the encoder (--encoder)")
        options = {**self.options, **(overrides or {})}
        options.pop("batch_seconds", None)  # which codebooks of before 0.3 name; it never changed the features
        encoder = build_encoder(self.encoder, options)
        self.check_encoder(encoder)
        return encoder

    def check_encoder(self, encoder: Encoder) -> None:
        """Raise an InputError that says what differs between the encoder and the one that the codebook is for."""
        if encoder.dim != self.dim or encoder.frame_rate != self.frame_rate:
            raise InputError(
                f"the codebook is for {self.encoder} features of width {self.dim} at {self.frame_rate:g} Hz, the "
                f"encoder {encoder.name} gives width {encoder.dim} at {encoder.frame_rate:g} Hz"
            )
        found = {"encoder": encoder.name, **_as_read(getattr(encoder, "identity", encoder.options))}
        for key, expected in {"encoder": self.encoder, **_as_read(self.identity)}.items():
            if key in found and found[key] != expected:
                raise InputError(f"the codebook is for the {key} {expected!r}, this encoder has {found[key]!r}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all."""
        from safetensors.torch import save

        # One entry: safetensors writes several in any order, and equal codebooks are to be equal files.
        facts: dict[str, Any] = {"encoder": self.encoder, "options": self.options, "frame_rate": self.frame_rate}
        facts |= {"extra": self.extra} | ({"identity": self.identity} if self.identity != self.options else {})
        metadata = {"facts": json.dumps(facts, sort_keys=True)}
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
            named = {key: facts[key] for key in ("encoder", "options", "frame_rate", "extra")}
            named["identity"] = facts.get("identity")
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file ({error})") from None
        except KeyError as error:
            raise InputError(f"{path} does not say its {error.args[0]}: it is not a codebook of ours") from None
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: metadata that cannot be read ({error})") from None
        return cls(centroids, **named)


class Quantizer(Protocol):
    """Features to units in two steps: what is computed where the features are, and what follows on the CPU."""

    def codes(self, utterances: Sequence[torch.Tensor], /) -> Iterator[torch.Tensor]:
        """What is needed of the frames of all utterances (T_i, D), in order, on their device, in parts (n, …)."""
        ...

    def search(self) -> UnitSearch:
        """What makes units of the codes of one utterance."""
        ...


class UnitSearch(Protocol):
    """The units of one utterance from its codes."""

    def add(self, codes: torch.Tensor, /) -> None:
        """Take in the codes (n, …) of the next frames, on the CPU; raises InputError where features are not finite."""
        ...

    def units(self) -> torch.Tensor:
        """The units (T,), int64, of the frames so far."""
        ...


class NearestUnits:
    """The units of one utterance where each frame has its own."""

    def __init__(self) -> None:
        self._units = array("q")  # an array that grows leaves no holes

    def add(self, codes: torch.Tensor) -> None:
        """Take in the units (n,), int64, of the next frames."""
        if bool((codes < 0).any()):
            raise InputError(NOT_FINITE)
        self._units.frombytes(codes.contiguous().numpy().tobytes())

    def units(self) -> torch.Tensor:
        """The units (T,), int64, of the frames so far."""
        return torch.from_numpy(np.array(self._units, dtype=np.int64))


def nearest(table: torch.Tensor) -> torch.Tensor:
    """The unit (n,) of the least of the distances (n, K) of each frame, the lowest of equal ones; -1 for NaN."""
    least, units = table.min(dim=1)
    return torch.where(least.isfinite(), units, -1)


def quantize_batch(quantizer: Quantizer, utterances: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The units (T_i,), int64, of each of several utterances (T_i, D) on one device, where they are.

    Raises:
        InputError: features of another width, or that are not finite.
    """
    if not utterances:
        return []
    searches = [quantizer.search() for _ in utterances]
    add_codes(searches, [len(features) for features in utterances], quantizer.codes(utterances))
    return [search.units().to(utterances[0].device) for search in searches]


def add_codes(searches: Sequence[UnitSearch], lengths: Sequence[int], codes: Iterable[torch.Tensor]) -> None:
    """Give each search the codes of its next frames, ``lengths`` of them, from codes of all in order, in parts.

    Each part is copied to the host once.
    """
    which, done = 0, 0
    for part in codes:
        part = part.cpu()
        while len(part):
            taken = part[: lengths[which] - done]
            if len(taken):
                searches[which].add(taken)
            part, done = part[len(taken) :], done + len(taken)
            if done == lengths[which]:
                which, done = which + 1, 0


def _as_read(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What comes back when facts are written to a file."""
    return dict(json.loads(json.dumps(dict(facts))))
