"""Kinds of axes and elements, and how two types compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import Any


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
