"""Codebook files of all kinds: ours, torch's, NumPy's and scikit-learn's, read without running anything in them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from joblib.numpy_pickle import NumpyArrayWrapper, NumpyUnpickler

from speechdlm_ext.compat.checkpoints import load_checkpoint, what_it_is
from speechdlm_ext.compat.pickle_stubs import STAND_INS, PickledDtype
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.published import CODEBOOKS, locate
from speechdlm_ext.units.codebook import Codebook

# What a file may be after it has been unpacked; the largest published codebook has 16 MB.
_LARGEST_BYTES = 1 << 30
# How files begin: torch.save's of today and of before 2020; NumPy's; pickles, plain and packed.
_TORCH = (b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.")
_NUMPY = b"\x93NUMPY"
_PACKED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"]\x00": lzma.LZMAFile,
}
_PICKLE = (b"\x80", b"x", *_PACKED)
# Names of the table in a dictionary of torch.save: DP-SLM's, and that of scikit-learn's attributes.
_TABLES = ("codebook", "cluster_centers_")
_EXPECTED = (
    'a codebook of data_prep/train_codebook.py, torch.save({"codebook": (K, D)}) or {"cluster_centers_": (K, D)}, '
    "a .npy table (K, D), or a k-means that scikit-learn pickled"
)


def load_codebook(path: str | os.PathLike[str]) -> Codebook:
    """Read a codebook; nothing in the file is executed, whatever it is.

    Args:
        path: a safetensors file of ours; ``torch.save({"codebook": (K, D)})``, or ``cluster_centers_``, or the table
            alone; a ``.npy`` file; a k-means that scikit-learn pickled; or the name of a published codebook. All but
            the first do not say which encoder they belong to (``Codebook.for_encoder``).

    Raises:
        InputError: there is no such file, or it is none of these; the message says what it is.
    """
    if os.fspath(path) in CODEBOOKS:
        path = locate(path, CODEBOOKS)
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; data_prep/train_codebook.py makes codebooks")
    with open(path, "rb") as file:
        head = file.read(64)
    if head[6:9] == b"\0\0{":  # safetensors: the header's length in eight bytes, then the header
        return Codebook.load(path)
    if head.startswith(_TORCH):
        centroids = _torch_centroids(path)
    elif head.startswith(_NUMPY):
        centroids = _numpy_centroids(path)
    elif head.startswith(_PICKLE):
        centroids = torch.from_numpy(_sklearn_centroids(path))
    else:
        text = head.isascii() and b"\0" not in head
        plain = "is empty" if not head else "is text" if text else f"begins with {head[:8].hex(' ')}"
        raise InputError(f"{path}: {what_it_is(head) or plain}; {_EXPECTED} is expected")
    try:
        return Codebook(centroids)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _torch_centroids(path: str | os.PathLike[str]) -> torch.Tensor:
    saved = load_checkpoint(path, trust=False)
    found = saved
    if isinstance(saved, dict):
        found = next((saved[name] for name in _TABLES if name in saved), None)
    found = torch.from_numpy(found) if isinstance(found, np.ndarray) and found.dtype.kind == "f" else found
    if not isinstance(found, torch.Tensor):
        names = ", ".join(map(str, saved)) if isinstance(saved, dict) else type(saved).__name__
        raise InputError(f"{path}: no tensor named codebook or cluster_centers_ in it (found {names})")
    return found


def _numpy_centroids(path: str | os.PathLike[str]) -> torch.Tensor:
    try:
        found = np.load(path, allow_pickle=False)
        return torch.from_numpy(found.astype(np.float32, casting="same_kind", order="C"))
    except (ValueError, TypeError, EOFError) as error:
        raise InputError(f"{path}: not a table (K, D) of floats ({one_line(error)[:200]})") from None


class _Refused(Exception):
    """The file is not what it should be; the message says why."""


class _Held:
    """Stands in for an object that a k-means has; holds the attributes that the file gives it."""

    def __init__(self, *arguments: Any) -> None:
        pass


class _Array(NumpyArrayWrapper):
    """joblib's array in a pickle, whose bytes follow; of numbers only."""

    dtype: Any

    def __init__(self) -> None:
        pass

    def read(self, unpickler: Any, *rest: Any) -> Any:
        if not isinstance(self.dtype, PickledDtype):
            raise _Refused("refused, because it has an array of objects")
        self.dtype = self.dtype.real()
        if not 0 <= np.prod([int(size) for size in self.shape], dtype=float) <= _LARGEST_BYTES:
            raise _Refused("an array in it is too large for a codebook")
        return self.read_array(unpickler, *rest)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *rest: Any) -> np.ndarray:
    """``numpy.core.numeric._frombuffer``: an array in pickles of protocol 5."""
    if not isinstance(dtype, PickledDtype) or any(part is not None for part in rest):
        raise TypeError("numpy arrays of objects are not read from a k-means file")
    return np.frombuffer(bytes(data), dtype=dtype.real()).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: Any, encoding: Any) -> bytes:
    """``_codecs.encode``: how protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise TypeError("only bytes are written in letters in a k-means file")
    return text.encode("latin1")


# All names that a pickled k-means uses; a pickle is a program that calls what it names, so no other name is answered.
_ALLOWED: dict[str, Any] = {
    **{name: answer for name, answer in STAND_INS.items() if name.startswith("numpy.")},
    **dict.fromkeys(
        (f"sklearn.cluster.{m}.{k}" for m in ("_kmeans", "k_means_") for k in ("KMeans", "MiniBatchKMeans")), _Held
    ),
    # How a k-means keeps its random numbers; not used.
    "numpy.random._pickle.__randomstate_ctor": _Held,
    "numpy.random._pickle.__bit_generator_ctor": _Held,
    "numpy.random._mt19937.MT19937": _Held,
    "numpy.random.mtrand.RandomState": _Held,
    "joblib.numpy_pickle.NumpyArrayWrapper": _Array,
    "sklearn.externals.joblib.numpy_pickle.NumpyArrayWrapper": _Array,
    "_codecs.encode": _encode,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
}


class _Unpickler(NumpyUnpickler):
    """joblib's reader, answering allowed names alone."""

    dispatch = dict(NumpyUnpickler.dispatch)

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__("", file, False)
        self.encoding = "latin1"

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _ALLOWED:
            raise _Refused(f"refused, because reading it would use {full}, which no k-means of scikit-learn needs")
        return _ALLOWED[full]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("refused, because it points to something outside")

    def get_extension(self, code: int) -> Any:
        raise _Refused("refused, because it names things by numbers")

    def load_build(self) -> None:
        """BUILD, the state of an object: of one that was made here, and never of a class or function itself."""
        if not isinstance(self.stack[-2], _Held | _Array | PickledDtype | np.ndarray):
            raise _Refused(f"refused, because it sets the state of a {type(self.stack[-2]).__name__}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def _sklearn_centroids(path: str | os.PathLike[str]) -> np.ndarray:
    """The ``cluster_centers_`` (K, D) of a pickled ``KMeans`` or ``MiniBatchKMeans``, or a pickled array.

    Args:
        path: as ``joblib.dump`` (plain, or packed with zlib, gzip, bz2, xz or lzma) or ``pickle.dump`` wrote it.

    Raises:
        InputError: the file names anything that a k-means does not, is not whole, or has no centroids.
    """
    try:
        model = _Unpickler(io.BytesIO(_unpacked(path))).load()
    except _Refused as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # what is no such file, or a hostile one, can fail in every way there is
        if isinstance(error, OSError) and error.filename is not None:
            raise
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise InputError(f"{path}: not a k-means model of scikit-learn, or not a whole one ({reason})") from None
    found = vars(model).get("cluster_centers_") if isinstance(model, _Held) else model
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
        raise InputError(f"{path}: not a trained k-means model: it has no table cluster_centers_ of numbers")
    return np.array(found, dtype=np.float32, subok=False)


def _unpacked(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:
        head = file.read(6)
        file.seek(0)
        opened = next((opened for magic, opened in _PACKED.items() if head.startswith(magic)), None)
        if head[:1] == b"x":
            data = zlib.decompressobj().decompress(file.read(), _LARGEST_BYTES + 1)
        else:
            data = (opened(file) if opened else file).read(_LARGEST_BYTES + 1)
    if len(data) > _LARGEST_BYTES:
        raise _Refused(f"more than {_LARGEST_BYTES >> 20} MB, too large for a codebook")
    return bytes(data)
