"""Neural types: what the axes of a tensor are and what its elements mean, checked where modules meet (as in NeMo).

A module names the types of its arguments and results::

    class Decoder(nn.Module):
        @typecheck(
            {"encoded": NeuralType(("B", "D", "T"), AcousticEncodedRepresentation())},
            {"log_probs": NeuralType(("B", "T", "D"), LogprobsType())},
            positional=True,
        )
        def forward(self, encoded): ...

or has them as properties ``input_types`` and ``output_types``, with ``@typecheck()`` on the method. Results carry their
type as ``.neural_type`` until an operation makes another tensor of them. A call is checked once for each signature
(names, ranks and types) of a module; nothing is checked under ``torch.compile`` and within :func:`disable_checks`.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch


class NeuralTypeComparisonResult(Enum):
    """What comparing an expected type with another tells."""

    SAME = 0
    LESS = 1  # the expected one is a special case of the other
    GREATER = 2  # the other is a special case of the expected one
    DIM_INCOMPATIBLE = 3  # a fixed size differs
    TRANSPOSE_SAME = 4  # the axes are in another order
    CONTAINER_SIZE_MISMATCH = 5
    INCOMPATIBLE = 6
    SAME_TYPE_INCOMPATIBLE_PARAMS = 7  # two sampling rates, for instance
    UNCHECKED = 8


Result = NeuralTypeComparisonResult
ACCEPTED = (Result.SAME, Result.GREATER)


class AxisKind(Enum):
    """What an axis runs over."""

    Batch = "batch"
    Time = "time"
    Dimension = "dimension"
    Width = "width"
    Height = "height"
    Any = "any"
    Sequence = "sequence"
    FlowGroup = "flowgroup"
    Singleton = "singleton"

    @staticmethod
    def from_str(label: str) -> AxisKind:
        """The kind of a name such as ``B``, ``T``, ``T_audio``, ``D`` or ``C``; raises ValueError for others."""
        name = label.lower()
        if name.startswith("t_") and len(name) > 2:
            return AxisKind.Time
        if name not in _ALIASES:
            raise ValueError(f"axis {label!r} is unknown: expected one of {', '.join(_ALIASES)}, t_…")
        return _ALIASES[name]

    def __str__(self) -> str:
        return str(self.value)


_ALIASES = {kind.value: kind for kind in AxisKind} | {
    "b": AxisKind.Batch, "n": AxisKind.Batch, "t": AxisKind.Time, "d": AxisKind.Dimension, "c": AxisKind.Dimension,
    "channel": AxisKind.Dimension, "w": AxisKind.Width, "h": AxisKind.Height, "s": AxisKind.Singleton,
    "seq": AxisKind.Sequence, "g": AxisKind.FlowGroup, "fg": AxisKind.FlowGroup,
}  # fmt: skip


class AxisType:
    """An axis: its kind, its size where that is fixed, and whether it is a Python list instead of a tensor's axis."""

    __slots__ = ("is_list", "kind", "size")

    def __init__(self, kind: AxisKind, size: int | None = None, is_list: bool = False) -> None:
        if size is not None and is_list:
            raise ValueError("an axis that is a list has no fixed size")
        self.kind, self.size, self.is_list = kind, size, is_list

    def __str__(self) -> str:
        return f"{self.kind}{'' if self.size is None else f':{self.size}'}{' list' if self.is_list else ''}"


class ElementType:
    """What the elements mean; subclasses are special cases of it.

    Args:
        parameters: which two types of one class must share, where both state them.
    """

    def __init__(self, **parameters: Any) -> None:
        self.parameters = parameters

    def compare(self, other: ElementType) -> NeuralTypeComparisonResult:
        """This expected type beside another."""
        if type(self) is type(other):
            pairs = ((value, other.parameters.get(name)) for name, value in self.parameters.items())
            same = all(None in pair or pair[0] == pair[1] for pair in pairs)
            return Result.SAME if same else Result.SAME_TYPE_INCOMPATIBLE_PARAMS
        if isinstance(self, type(other)):
            return Result.LESS
        return Result.GREATER if isinstance(other, type(self)) else Result.INCOMPATIBLE

    def __str__(self) -> str:
        return type(self).__name__


class VoidType(ElementType):
    """Anything."""

    def compare(self, other: ElementType) -> NeuralTypeComparisonResult:
        """Every element will do."""
        return Result.SAME


class AudioSignal(ElementType):
    """Samples; ``freq`` is their rate in Hz."""

    def __init__(self, freq: int | None = None) -> None:
        super().__init__(freq=freq)


class ChannelType(ElementType):
    """Features in general."""


class SpectrogramType(ChannelType):
    """A spectrogram."""


class MelSpectrogramType(SpectrogramType):
    """A mel spectrogram."""


class MFCCSpectrogramType(SpectrogramType):
    """Mel-frequency cepstral coefficients."""


class EncodedRepresentation(ChannelType):
    """What an encoder makes."""


class AcousticEncodedRepresentation(EncodedRepresentation):
    """What an encoder of audio makes."""


class LogitsType(ElementType):
    """Scores before a softmax."""


class LogprobsType(ElementType):
    """Logarithms of probabilities."""


class ProbsType(ElementType):
    """Probabilities."""


class LossType(ElementType):
    """A loss."""


class LengthsType(ElementType):
    """Lengths of the rows of a batch."""


class LabelsType(ElementType):
    """Labels."""


class PredictionsType(LabelsType):
    """Labels that a model predicts."""


class RegressionValuesType(PredictionsType):
    """Predicted numbers."""


class CategoricalValuesType(PredictionsType):
    """Predicted categories."""


class MaskType(PredictionsType):
    """A mask."""


class HypothesisType(LabelsType):
    """Hypotheses of a decoder."""


class Target(ElementType):
    """Targets."""


class ClassificationTarget(Target):
    """Targets that are classes."""


class Index(ElementType):
    """Indices."""


class IntType(ElementType):
    """Integers."""


class Length(IntType):
    """A length."""


class TokenIndex(IntType):
    """Tokens."""


class FloatType(ElementType):
    """Floating-point numbers."""


class BoolType(ElementType):
    """Truth values."""


class StringType(ElementType):
    """Strings."""


class StringLabel(StringType):
    """Labels as strings."""


class NeuralType:
    """Axes and the type of the elements; ``==`` compares objects, :meth:`compare` types.

    Args:
        axes: names (see :meth:`AxisKind.from_str`) or :class:`AxisType` objects, lists before tensor axes; None is
            a value without axes.
        elements_type: an instance.
        optional: whether an argument may be missing.

    Raises:
        ValueError: the axes do not fit together, or ``elements_type`` is a class.
    """

    def __init__(
        self, axes: Iterable[str | AxisType] | None = None, elements_type: ElementType | None = None,
        optional: bool = False,
    ) -> None:  # fmt: skip
        self.elements_type = VoidType() if elements_type is None else elements_type
        if not isinstance(self.elements_type, ElementType):
            raise ValueError(f"elements_type must be an instance of a class of element types, not {elements_type!r}")
        given = None if axes is None else tuple(axes)
        if given is not None and len({isinstance(axis, str) for axis in given}) > 1:
            raise ValueError("axes must be all names or all AxisType objects")
        self.axes = None if given is None else tuple(
            AxisType(AxisKind.from_str(axis)) if isinstance(axis, str) else axis for axis in given
        )  # fmt: skip
        lists = [axis.is_list for axis in self.axes or ()]
        if lists != sorted(lists, reverse=True):
            raise ValueError("axes that are lists must come before those of tensors")
        self.optional = optional

    def compare(self, other: NeuralType) -> NeuralTypeComparisonResult:
        """This expected type beside another one, with NeMo's results (an ``Any`` axis forgets mismatches before it)."""
        if self.axes is None and isinstance(self.elements_type, VoidType):
            return Result.SAME
        elements = self.elements_type.compare(other.elements_type)
        axes = _compare_axes(self.axes, other.axes)
        if axes is Result.SAME or axes is Result.INCOMPATIBLE:
            return elements if axes is Result.SAME else axes
        return axes if elements is Result.SAME else Result.INCOMPATIBLE

    @property
    def rank(self) -> int | None:
        """Number of a tensor's axes; None where that is not said."""
        return None if self.axes is None else sum(not axis.is_list for axis in self.axes)

    def __str__(self) -> str:
        if self.axes is None:
            return f"axes: None; elements_type: {self.elements_type}"
        comma = "," if len(self.axes) == 1 else ""
        return f"axes: ({', '.join(map(str, self.axes))}{comma}); elements_type: {self.elements_type}"

    def __repr__(self) -> str:
        axes = None if self.axes is None else f"({', '.join(map(str, self.axes))})"
        return f"NeuralType(axis={axes}, element_type={self.elements_type}, optional={self.optional})"


def _compare_axes(ours: tuple[AxisType, ...] | None, theirs: tuple[AxisType, ...] | None) -> NeuralTypeComparisonResult:
    if ours is None or theirs is None:
        return Result.SAME if ours is theirs else Result.INCOMPATIBLE
    if len(ours) != len(theirs):
        return Result.INCOMPATIBLE
    same = True
    for our, their in zip(ours, theirs, strict=True):
        if our.kind is AxisKind.Any:
            same = True
        elif our.kind is not their.kind or our.is_list != their.is_list or our.size not in (None, their.size):
            same = False
    if same:
        return Result.SAME
    if Counter(axis.kind for axis in ours) != Counter(axis.kind for axis in theirs):
        return Result.INCOMPATIBLE
    sizes = {axis.kind: axis.size for axis in theirs}
    fits = all(axis.size in (None, sizes[axis.kind]) for axis in ours)
    return Result.TRANSPOSE_SAME if fits else Result.DIM_INCOMPATIBLE


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
