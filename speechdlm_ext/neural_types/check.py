"""Arguments and results of a method beside the types that it names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch

from speechdlm_ext.neural_types.types import ACCEPTED, NeuralType


class Typing:
    """A module whose methods under ``@typecheck()`` take their types from these properties; None is unchecked."""

    @property
    def input_types(self) -> Mapping[str, Any] | None:
        """Types of the arguments by name; a list around a type is a list of such values."""
        return None

    @property
    def output_types(self) -> Mapping[str, Any] | None:
        """Types of the results, in order."""
        return None


_enabled = True
_semantic = True


@contextmanager
def disable_checks() -> Iterator[None]:
    """Check nothing within; nested blocks end with the outermost."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


@contextmanager
def disable_semantic_checks() -> Iterator[None]:
    """Check names and ranks only within, not what tensors carry as their type."""
    global _semantic
    before, _semantic = _semantic, False
    try:
        yield
    finally:
        _semantic = before


def typecheck(
    input_types: Any = None, output_types: Any = None, *, positional: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Check arguments and results of a method.

    Args:
        input_types: by name; default: the object's ``input_types``.
        output_types: in order; default: the object's ``output_types``.
        positional: whether arguments may be given by position; otherwise by name only, as in NeMo.

    Raises:
        TypeError: by the method, in one line that names class, argument, what was found and what is expected.
        RuntimeError: by the method: its class has no types.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        names = list(inspect.signature(method).parameters)[1:]
        checkers: WeakKeyDictionary[Any, _Checker] = WeakKeyDictionary()

        @wraps(method)
        def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not _enabled or torch.compiler.is_compiling():
                return method(self, *args, **kwargs)
            checker = checkers.get(self)
            if checker is None:
                checker = checkers[self] = _Checker(self, method.__name__, input_types, output_types)
            if args:
                if not positional:
                    raise TypeError(f"{checker.where}: {len(args)} positional arguments; expected all by name")
                if len(args) > len(names):
                    raise TypeError(f"{checker.where}: found {len(args)} arguments; expected at most {len(names)}")
                kwargs.update(zip(names, args, strict=False))
            checker.check_inputs(kwargs)
            results = method(self, **kwargs)
            checker.check_outputs(results, kwargs)
            return results

        return checked

    if callable(input_types):  # @typecheck without parentheses
        method, input_types = input_types, None
        return decorate(method)
    return decorate


class _Checker:
    """The types of one method of one object, and the signatures that were found to fit."""

    def __init__(self, owner: Any, method: str, inputs: Any, outputs: Any) -> None:
        self.where = f"{type(owner).__name__}.{method}"
        if inputs is None and outputs is None and not hasattr(owner, "input_types"):
            raise RuntimeError(f"{self.where} has no types: inherit Typing, or pass them to typecheck")
        self.inputs: dict[str, Any] | None = _types(inputs, getattr(owner, "input_types", None))
        self.outputs: dict[str, Any] | None = _types(outputs, getattr(owner, "output_types", None))
        self.known: set[Any] = set()

    def check_inputs(self, given: dict[str, Any]) -> None:
        """Names, number, nesting, rank and type of the arguments."""
        if self.inputs is None:
            return
        key = (_semantic, *((name, _signature(value)) for name, value in given.items()))
        if key in self.known:
            return
        for name, value in given.items():
            if name not in self.inputs:
                raise TypeError(f"{self.where}: found argument {name}; expected {', '.join(self.inputs)}")
            self._check("argument", name, value, self.inputs[name])
        missing = [n for n, expected in self.inputs.items() if not _innermost(expected).optional and n not in given]
        if missing:
            raise TypeError(f"{self.where}: argument {missing[0]} is missing; found {', '.join(given) or 'none'}")
        self.known.add(key)

    def check_outputs(self, results: Any, given: dict[str, Any]) -> None:
        """Number, rank and nesting of the results, which get their types unless they are arguments as they came."""
        if self.outputs is None:
            return
        expected = list(self.outputs.values())
        if isinstance(results, dict):
            found = [results[name] for name in self.outputs if name in results]
        elif len(expected) == 1 and not (isinstance(results, tuple) and len(results) != 1):
            found = [results[0] if isinstance(results, tuple) else results]
        else:
            found = list(results) if isinstance(results, (tuple, list)) else [results]
        key = (None, *map(_signature_of_result, found))
        if key not in self.known:
            mandatory = sum(not _innermost(each).optional for each in expected)
            if not mandatory <= len(found) <= len(expected):
                raise TypeError(f"{self.where}: found {len(found)} results; expected {', '.join(self.outputs)}")
            for (name, type_), value in zip(self.outputs.items(), found, strict=False):
                self._check("result", name, value, type_, semantic=False)
            self.known.add(key)
        arguments = list(map(id, given.values()))
        for value, type_ in zip(found, expected, strict=False):
            if id(value) not in arguments:
                _attach(value, type_)

    def _check(self, kind: str, name: str, value: Any, expected: Any, semantic: bool = True) -> None:
        where = f"{self.where}, {kind} {name}"
        if value is None and _innermost(expected).optional:
            return
        if isinstance(expected, (list, tuple)):
            if hasattr(value, "shape") or not isinstance(value, Sequence):
                raise TypeError(f"{where}: found {_describe(value)}; expected a list of {_innermost(expected)}")
            for each in value:
                self._check(kind, name, each, expected[0], semantic)
            return
        lists = sum(axis.is_list for axis in expected.axes or ())
        for _ in range(lists):
            if isinstance(value, (list, tuple)) and value:
                value = value[0]
        if isinstance(value, (list, tuple)) and not lists:
            raise TypeError(f"{where}: found a {type(value).__name__}; expected {expected}")
        shape = getattr(value, "shape", None)
        if shape is not None and expected.rank not in (None, len(shape)):
            raise TypeError(f"{where}: found {_describe(value)}; expected {expected}")
        carried = getattr(value, "neural_type", None)
        if semantic and _semantic and isinstance(carried, NeuralType):
            result = expected.compare(carried)
            if result not in ACCEPTED:
                raise TypeError(f"{where}: found {carried}; expected {expected} ({result.name})")


def _types(given: Any, default: Any) -> dict[str, Any] | None:
    chosen = default if given is None else given
    return None if chosen is None else dict(chosen)


def _innermost(expected: Any) -> NeuralType:
    while isinstance(expected, (list, tuple)):
        expected = expected[0]
    return expected


def _signature(value: Any) -> Any:
    """What of an argument is checked; objects of types stay alive as long as it."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return len(shape), getattr(value, "neural_type", None)
    if isinstance(value, (list, tuple)):
        return tuple(map(_signature, value))
    return value is None


def _signature_of_result(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_signature_of_result, value))
    shape = getattr(value, "shape", None)
    return value is None if shape is None else len(shape)


def _attach(value: Any, expected: Any) -> None:
    if isinstance(expected, (list, tuple)):
        for each in value if isinstance(value, (list, tuple)) else ():
            _attach(each, expected[0])
    elif hasattr(value, "shape"):
        try:
            value.neural_type = expected
        except AttributeError:  # arrays of numpy take no attributes
            pass


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"
