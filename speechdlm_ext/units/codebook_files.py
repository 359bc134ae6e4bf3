"""Codebook files of all kinds: ours, DP-SLM's, and scikit-learn's."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError
from speechdlm_ext.units.codebook import Codebook
from speechdlm_ext.units.sklearn_files import sklearn_centroids

# How files begin: torch.save's of today and of before 2020; pickles, plain and packed.
_TORCH = (b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.")
_SKLEARN = (b"\x80", b"x", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"]\x00")


def load_codebook(path: str | os.PathLike[str]) -> Codebook:
    """Read a codebook; nothing in the file is executed, whatever it is.

    Args:
        path: a safetensors file of ours, a file of ``torch.save({"codebook": (K, D)})``, or a k-means that scikit-learn
            pickled. The last two do not say which encoder they belong to (``Codebook.for_encoder``).

    Raises:
        InputError: there is no such file, or it is none of these.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; data_prep/train_codebook.py makes codebooks")
    with open(path, "rb") as file:
        head = file.read(16)
    if head[6:9] == b"\0\0{":  # safetensors: the header's length in eight bytes, then the header
        return Codebook.load(path)
    if not head.startswith(_TORCH + _SKLEARN):
        return Codebook.load(path)
    torchs = head.startswith(_TORCH)
    centroids = _torch_centroids(path) if torchs else torch.from_numpy(sklearn_centroids(path))
    try:
        return Codebook(centroids)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _torch_centroids(path: str | os.PathLike[str]) -> torch.Tensor:
    saved = load_checkpoint(path, trust=False)
    found = saved.get("codebook") if isinstance(saved, dict) else saved
    if not isinstance(found, torch.Tensor):
        names = ", ".join(map(str, saved)) if isinstance(saved, dict) else type(saved).__name__
        raise InputError(f"{path}: no tensor named codebook in it (found {names})")
    return found
