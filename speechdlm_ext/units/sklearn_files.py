"""K-means models that scikit-learn pickled (joblib), read without running anything: of the file, or of scikit-learn.

A pickle is a program that calls what it names. Here all names that such files have answer with stand-ins that hold
data; any other name ends the reading. joblib puts the bytes of its arrays between the pickle's own.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import IO, Any

import numpy as np

from speechdlm_ext.compat.pickle_stubs import STAND_INS, PickledDtype
from speechdlm_ext.errors import InputError, one_line

# What a file may be after it has been unpacked; the largest published codebook has 16 MB.
LARGEST_BYTES = 1 << 30
_PACKED: tuple[tuple[bytes, Callable[[IO[bytes]], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ", lzma.LZMAFile),
    (b"]\x00", lzma.LZMAFile),
)
_MODELS = tuple(
    f"{module}.{name}"
    for module in ("sklearn.cluster._kmeans", "sklearn.cluster.k_means_")
    for name in ("KMeans", "MiniBatchKMeans")
)
_ARRAYS = ("joblib.numpy_pickle.NumpyArrayWrapper", "sklearn.externals.joblib.numpy_pickle.NumpyArrayWrapper")
# How a k-means keeps its random numbers: named, and passed over.
_PASSED_OVER = (
    "numpy.random._pickle.__randomstate_ctor",
    "numpy.random._pickle.__bit_generator_ctor",
    "numpy.random._mt19937.MT19937",
    "numpy.random.mtrand.RandomState",
)


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


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
}


def sklearn_centroids(path: str | os.PathLike[str]) -> np.ndarray:
    """The ``cluster_centers_`` (K, D) of a pickled ``KMeans`` or ``MiniBatchKMeans``.

    Args:
        path: as ``joblib.dump`` (plain, or packed with zlib, gzip, bz2, xz or lzma) or ``pickle.dump`` wrote it.

    Raises:
        InputError: the file names anything that a k-means does not, is not whole, or has no centroids.
    """
    try:
        model = _Reader(io.BytesIO(_unpacked(path))).load()
    except _Refused as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # what is no such file, or a hostile one, can fail in every way there is
        if isinstance(error, OSError) and error.filename is not None:
            raise
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise InputError(f"{path}: not a k-means model of scikit-learn, or not a whole one ({reason})") from None
    centroids = model.held.get("cluster_centers_") if isinstance(model, _Held) else model
    if not isinstance(centroids, np.ndarray) or centroids.ndim != 2 or centroids.dtype.kind != "f":
        raise InputError(f"{path}: no cluster_centers_ (K, D) in it: is it a k-means model that was fitted?")
    return np.array(centroids, dtype=np.float32, subok=False)


class _Refused(Exception):
    """What the file wants is not done."""


class _Held:
    """Answers to a class's name; keeps what the object was made of."""

    held: Mapping[Any, Any] = MappingProxyType({})

    def __init__(self, *arguments: Any) -> None:
        pass


class _ArrayPlace(_Held):
    """Where joblib has an array, whose bytes follow."""


# The reader that is written in Python: joblib's bytes lie between those of the pickle, and the other one reads ahead.
_PythonUnpickler: Any = vars(pickle)["_Unpickler"]


class _Reader(_PythonUnpickler):
    """Reads a pickle with stand-ins for all that it names."""

    dispatch = dict(_PythonUnpickler.dispatch)

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")
        self._bytes = file

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _ARRAYS:
            return _ArrayPlace
        if full in _MODELS or full in _PASSED_OVER:
            return _Held
        if full in _FUNCTIONS:
            return _FUNCTIONS[full]
        if full.startswith("numpy.") and full in STAND_INS:
            return STAND_INS[full]
        raise _Refused(f"refused, because reading it would use {full}, which no k-means of scikit-learn needs")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("refused, because it points to something outside")

    def get_extension(self, code: int) -> Any:
        raise _Refused("refused, because it names things by numbers")

    def load_build(self) -> None:
        """BUILD: the state of an object, and after joblib's place for an array, the array."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Held):
            target.held = state if isinstance(state, dict) else {}
            if isinstance(target, _ArrayPlace):
                self.stack[-1] = self._array(target.held)
        elif isinstance(target, PickledDtype | np.ndarray):
            target.__setstate__(state)
        else:
            raise _Refused(f"refused, because it sets the state of a {type(target).__name__}")

    dispatch[pickle.BUILD[0]] = load_build

    def _array(self, held: dict[Any, Any]) -> np.ndarray:
        if not isinstance(held.get("dtype"), PickledDtype):
            raise _Refused("refused, because it has an array of objects")
        dtype = held["dtype"].real()
        shape = tuple(int(size) for size in held["shape"])
        # Since joblib 1.2, so many bytes of padding, their number first.
        if held.get("numpy_array_alignment_bytes") is not None:
            self._bytes.seek(self._bytes.read(1)[0], io.SEEK_CUR)
        count = 1
        for size in shape:
            count *= size
        data = self._bytes.read(count * dtype.itemsize) if 0 <= count <= LARGEST_BYTES else b""
        return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if held.get("order") == "F" else "C")


def _unpacked(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:
        head = file.read(6)
        file.seek(0)
        for magic, opened in _PACKED:
            if head.startswith(magic):
                data = opened(file).read(LARGEST_BYTES + 1)
                break
        else:
            if head[:1] == b"x":
                data = zlib.decompressobj().decompress(file.read(), LARGEST_BYTES + 1)
            else:
                data = file.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise _Refused(f"more than {LARGEST_BYTES >> 20} MB, too large for a codebook")
    return bytes(data)
