"""Harmless answers to names that checkpoints ask for and whose real owners could be talked into more."""

from __future__ import annotations

import typing
from collections import defaultdict
from functools import cache
from typing import Any

_ENDIAN = ("<", ">", "=", "|")


def _empty_defaultdict(factory: Any = None, *rest: Any) -> Any:
    """``collections.defaultdict``: OmegaConf keeps one of dicts; any other factory would be called later."""
    if rest or factory not in (None, dict, list, int, float):
        raise TypeError("a defaultdict with that factory is not read from a checkpoint")
    return defaultdict(factory)


def _subscript(special: Any, arguments: Any) -> Any:
    """``operator.getitem``: how Optional[int] and the like are pickled."""
    forms = (typing.Dict, typing.List, typing.Optional, typing.Tuple, typing.Union)  # noqa: UP006
    if not any(special is form for form in forms):
        raise TypeError("only typing's own forms are subscripted in a checkpoint")
    for argument in arguments if isinstance(arguments, tuple) else (arguments,):
        # A string would be a type's name, which some look up by evaluating it.
        if not isinstance(argument, type) and type(argument).__module__ != "typing":
            raise TypeError("only types are arguments of typing's forms in a checkpoint")
    return special[arguments]


def _type_of(value: Any) -> type:
    """``type``: how NoneType is pickled."""
    if value is not None:
        raise TypeError("only the type of None is read from a checkpoint")
    return type(None)


class PickledDtype:
    """``numpy.dtype`` as a pickle makes it: a kind and size, with the byte order set afterwards."""

    def __init__(self, code: Any = "f8", align: Any = False, copy: Any = True) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not (isinstance(code, str) and code[:1] in tuple("biufcSU") and code[1:].isdigit()):
            raise TypeError(f"numpy's type {code!r} is not read from a checkpoint")
        self.code = code
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        order = order.decode("ascii") if isinstance(order, bytes) else order
        if order not in _ENDIAN or any(part is not None for part in state[2:5]):
            raise TypeError("numpy's structured types are not read from a checkpoint")
        self.order = order

    def real(self) -> Any:
        """The dtype itself."""
        import numpy

        return numpy.dtype(self.order.replace("|", "") + self.code)


def _scalar(dtype: Any, data: Any = b"") -> Any:
    """``numpy.core.multiarray.scalar``: one number from its bytes."""
    import numpy

    if not isinstance(dtype, PickledDtype) or not isinstance(data, bytes | str):
        raise TypeError("numpy's scalar wants a plain type and bytes")
    raw = data.encode("latin1") if isinstance(data, str) else data
    real = dtype.real()
    if len(raw) != real.itemsize:
        raise ValueError(f"numpy's scalar of {real} wants {real.itemsize} bytes, got {len(raw)}")
    return numpy.frombuffer(raw, dtype=real)[0]


def _reconstruct(*what: Any) -> Any:
    """``numpy.core.multiarray._reconstruct``: an empty array, to be filled by its state."""
    return array_class()((0,), dtype="b")


@cache
def array_class() -> Any:
    """The class of arrays that come from checkpoints; made when numpy is there."""
    import numpy

    class CheckpointArray(numpy.ndarray):
        """An array from a checkpoint: of plain numbers, and as long as its shape says."""

        def __setstate__(self, state: Any) -> None:
            _, shape, dtype, fortran, data = state
            raw = data.encode("latin1") if isinstance(data, str) else data
            if not isinstance(dtype, PickledDtype) or not isinstance(raw, bytes):
                raise TypeError("numpy arrays of objects are not read from a checkpoint")
            super().__setstate__((1, tuple(shape), dtype.real(), bool(fortran), raw))  # type: ignore[arg-type]

        def __reduce__(self) -> Any:
            return numpy.array(self, copy=True, subok=False).__reduce__()

    return CheckpointArray


def _array_marker() -> None:
    """``numpy.ndarray``, named in a pickle only as an argument of ``_reconstruct``."""
    raise TypeError("numpy.ndarray is not called in a checkpoint")


STAND_INS: dict[str, Any] = {
    "builtins.type": _type_of,
    "collections.defaultdict": _empty_defaultdict,
    "operator.getitem": _subscript,
    "_operator.getitem": _subscript,
    "numpy.dtype": PickledDtype,
    "numpy.ndarray": _array_marker,
    # numpy 1 and numpy 2
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
}
