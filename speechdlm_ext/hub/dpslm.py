"""DP-SLM's chain as its authors' ``torch.hub`` entries give it: the same names, arguments and results.

``hubconf.py`` at the top of the checkout has them for ``torch.hub.load(PATH, name, source="local")``. Each takes
``checkpoint``, a file at hand in the published format; without it the published one is fetched.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from speechdlm_ext.encoders.wavlm import WavLMEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.hub.unit_to_codec import UnitToCodec
from speechdlm_ext.units.codebook_files import load_codebook
from speechdlm_ext.units.quantizer import DPDPQuantizer
from speechdlm_ext.vocoders.wavtokenizer import WavTokenizer

__all__ = [
    "codebook",
    "dpdp_quantizer_from_codebook",
    "ellav_units_to_wavtokenizer",
    "small_320_24k_4096",
    "small_600_24k_4096",
    "wavlm_large",
]
File = str | os.PathLike[str] | None


def wavlm_large(
    map_location: str = "cpu", progress: bool = True, layer: int = 11, checkpoint: File = None
) -> tuple[WavLMEncoder, Callable[..., Tensor]]:
    """WavLM-Large up to a layer, and ``extract_features(wavlm, wav, sample_rate, layer=11)``.

    The latter takes sound ``(1, N)`` to features ``(T, D)``, T = ⌊N / 320⌋ at 16 kHz; the sound is padded with 40 zeros
    on either side and not normalized.

    Raises:
        InputError: as :class:`.WavLMEncoder`.
    """
    return WavLMEncoder(checkpoint or "wavlm-large", layer).to(map_location), _extract_features


@torch.inference_mode()
def _extract_features(wavlm: WavLMEncoder, wav: Tensor, sample_rate: int, layer: int = 11) -> Tensor:
    if layer != wavlm.options["layer"]:
        raise InputError(
            f"layer {layer}: the model was loaded up to layer {wavlm.options['layer']}: wavlm_large(layer=…)"
        )
    if wav.dim() != 2 or len(wav) != 1:
        raise InputError(f"sound of shape {tuple(wav.shape)}: (1, N) is expected, one channel")
    return wavlm.encode(wav[0].cpu(), sample_rate)


def codebook(
    layer: int = 11, k: int = 500, map_location: str = "cpu", progress: bool = True, checkpoint: File = None
) -> Tensor:
    """Centroids ``(K, D)`` of features of WavLM-Large's layer 11, K of 100, 200, 500, 1000 or 2000.

    Raises:
        InputError: none is published for this layer and K, or as :func:`.load_codebook`.
    """
    found = load_codebook(checkpoint or f"wavlm-large-l{layer}-k{k}").centroids
    if checkpoint is not None and len(found) != k:
        raise InputError(f"{checkpoint} has {len(found)} centroids, k={k} are asked for")
    return found.to(map_location)


def dpdp_quantizer_from_codebook(
    codebook: Tensor | None = None, lmbda: float = 0.0, num_neighbors: int | None = None, checkpoint: File = None
) -> DPDPQuantizer:
    """The quantizer of a codebook, or of the codebook in a file; ``quantizer(features)`` gives centroids and units.

    Raises:
        InputError: neither or both are given, or as :class:`.DPDPQuantizer`.
    """
    given = load_codebook(checkpoint) if checkpoint is not None else codebook
    if given is None or codebook is not None and checkpoint is not None:
        raise InputError("dpdp_quantizer_from_codebook: a codebook (K, D) or checkpoint=FILE is expected")
    return DPDPQuantizer(given, lmbda, num_neighbors)


def ellav_units_to_wavtokenizer(
    k: int = 500, lmbda: float = 4500, map_location: str = "cpu", progress: bool = True, checkpoint: File = None
) -> UnitToCodec:
    """The acoustic model of a codebook's size and a penalty.

    Raises:
        InputError: none is published for them, the file is of another K, or as :meth:`.UnitToCodec.from_pretrained`.
    """
    model = UnitToCodec.from_pretrained(checkpoint or f"ellav-k{k}-l{lmbda:g}")
    model.dictionary.check_units(str(checkpoint))
    if len(model.dictionary.units) != k:
        raise InputError(f"{checkpoint} is of {len(model.dictionary.units)} units, k={k} are asked for")
    return model.to(map_location)


Codec = tuple[WavTokenizer, Callable[..., Tensor], Callable[..., tuple[Tensor, int]]]


def small_600_24k_4096(
    pretrained: bool = True, map_location: str = "cpu", progress: bool = True, checkpoint: File = None
) -> Codec:
    """The codec at 40 Hz, ``encode(codec, wav, sample_rate)`` to codes ``(1, B, L)``, and ``vocode(codec, codes)``.

    Raises:
        InputError: as :meth:`.WavTokenizer.from_pretrained`.
    """
    return _codec(checkpoint or "small_600_24k_4096", map_location)


def small_320_24k_4096(
    pretrained: bool = True, map_location: str = "cpu", progress: bool = True, checkpoint: File = None
) -> Codec:
    """The same of the codec at 75 Hz."""
    return _codec(checkpoint or "small_320_24k_4096", map_location)


def _codec(checkpoint: Any, map_location: str) -> Codec:
    codec = WavTokenizer.from_pretrained(checkpoint)
    return codec.to(map_location), WavTokenizer.encode, WavTokenizer.decode
