"""Neural types beside NeMo's table of comparisons, and what the check of a call promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from speechdlm_ext import neural_types
from speechdlm_ext.neural_types import (
    AudioSignal,
    AxisKind,
    AxisType,
    ElementType,
    LengthsType,
    LogitsType,
    LogprobsType,
    MaskType,
    NeuralType,
    Typing,
    disable_checks,
    disable_semantic_checks,
    typecheck,
)

TABLE = json.loads((Path(__file__).parent / "data" / "reference" / "nemo" / "neural_types.json").read_text())


def made(spec: dict[str, Any]) -> NeuralType:
    axes = spec["axes"]
    if axes and isinstance(axes[0], dict):
        axes = [AxisType(AxisKind[axis["kind"]], axis.get("size"), axis.get("is_list", False)) for axis in axes]
    kind = getattr(neural_types, spec["type"])(**spec.get("args", {})) if spec["type"] else None
    return NeuralType(axes, kind)


@pytest.mark.parametrize("pair", TABLE["pairs"], ids=lambda pair: f"{pair['first']['type']}-{pair['result']}")
def test_comparisons_equal_the_reference(pair: dict[str, Any]) -> None:
    first, second = made(pair["first"]), made(pair["second"])
    assert first.compare(second).name == pair["result"]
    assert second.compare(first).name == pair["reverse"]


def test_classes_and_their_order_equal_the_reference() -> None:
    for name, bases in TABLE["hierarchy"].items():
        kind = getattr(neural_types, name)
        found = [base.__name__ for base in kind.__mro__[1:] if base not in (ElementType, object)]
        assert found == bases, name
    assert [result.name for result in neural_types.NeuralTypeComparisonResult] == TABLE["results"]
    assert [result.name for result in neural_types.ACCEPTED] == TABLE["accepted_by_typecheck"]


def test_what_types_look_like() -> None:
    assert str(NeuralType()) == "axes: None; elements_type: VoidType"
    assert str(NeuralType(("B", "T"), LogitsType())) == "axes: (batch, time); elements_type: LogitsType"
    shown = "NeuralType(axis=(batch, time), element_type=AudioSignal, optional=True)"
    assert repr(NeuralType(("B", "T"), AudioSignal(16000), optional=True)) == shown


@pytest.mark.parametrize(
    "build",
    [
        lambda: NeuralType(("B",), LogitsType),
        lambda: NeuralType((AxisType(AxisKind.Batch), AxisType(AxisKind.Time, is_list=True))),
        lambda: NeuralType((AxisType(AxisKind.Batch), "T")),
        lambda: NeuralType(("B", AxisType(AxisKind.Time))),
        lambda: NeuralType(("Q",)),
        lambda: AxisType(AxisKind.Time, 3, is_list=True),
    ],
)
def test_impossible_types_are_refused(build: Any) -> None:
    with pytest.raises(ValueError):
        build()


class Module(nn.Module, Typing):
    """Its result does not fit its own argument."""

    @property
    def input_types(self) -> dict[str, Any]:
        axes = ("B", "T")
        return {
            "x": NeuralType(axes, LogitsType()),
            "length": NeuralType(("B",), LengthsType()),
            "mask": NeuralType(axes, MaskType(), optional=True),
        }

    @property
    def output_types(self) -> dict[str, Any]:
        return {"y": NeuralType(("B", "T"), LogprobsType()), "y_length": NeuralType(("B",), LengthsType())}

    @typecheck()
    def forward(self, x: Any, length: Any, mask: Any = None, broken: Any = None) -> Any:
        return x * 1.0, length.clone()


X, LENGTH = torch.ones(2, 3), torch.tensor([3, 2])


def test_results_carry_their_types_until_an_operation() -> None:
    y, length = Module()(x=X, length=LENGTH)
    assert str(y.neural_type) == "axes: (batch, time); elements_type: LogprobsType"
    assert str(length.neural_type) == "axes: (batch,); elements_type: LengthsType"
    assert not hasattr(y + 1, "neural_type")


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((X, LENGTH), {}, "Module.forward: 2 positional arguments"),
        ((), {"x": X}, "argument length is missing"),
        ((), {"x": X, "lenght": LENGTH}, "found argument lenght; expected x, length, mask"),
        ((), {"x": X, "length": LENGTH, "mask": None, "broken": 1}, "found argument broken"),
        ((), {"x": X, "mask": X}, "argument length is missing"),
        ((), {"x": X[None], "length": LENGTH},
         r"Module.forward, argument x: found Tensor of shape \(1, 2, 3\); expected axes: .*LogitsType"),
        ((), {"x": [X], "length": LENGTH}, "argument x: found a list"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_named(args: Any, kwargs: Any, words: str) -> None:
    module = Module()
    for _ in range(2):  # also when the same call came before
        with pytest.raises(TypeError, match=words):
            module(*args, **kwargs)


def test_a_tensor_of_another_meaning_is_refused() -> None:
    module = Module()
    module(x=X, length=LENGTH)
    y, _ = module(x=X, length=LENGTH)
    with pytest.raises(TypeError, match="argument x: found axes.*LogprobsType; expected axes.*LogitsType"):
        module(x=y, length=LENGTH)
    with disable_semantic_checks():
        module(x=y, length=LENGTH)
    with pytest.raises(TypeError):
        module(x=y, length=LENGTH)


def test_values_without_shape_and_optional_ones_pass() -> None:
    assert Module()(x=3.0, length=LENGTH)[0] == 3.0
    Module()(x=X, length=LENGTH, mask=None)


def test_disabled_checks_stay_disabled_until_the_outermost_block_ends() -> None:
    module = Module()
    with pytest.raises(KeyError), disable_checks():
        with disable_checks():
            module(X, LENGTH)
        assert not hasattr(module(X, LENGTH)[0], "neural_type")
        raise KeyError
    with pytest.raises(TypeError):
        module(X, LENGTH)


def types(*names: str, axes: Any = ("B",)) -> dict[str, Any]:
    return {name: NeuralType(axes, LogitsType()) for name in names}


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (X.sum(), r"result y: found Tensor of shape \(\)"),
        ((X, X, X), "found 3 results; expected y, z"),
        (X, "found 1 results; expected y, z"),
    ],
)
def test_wrong_results_are_named(result: Any, words: str) -> None:
    class Broken:
        @typecheck(None, types("y", "z", axes=("B", "T")))
        def run(self) -> Any:
            return (result, X) if "shape" in words else result

    with pytest.raises(TypeError, match=words):
        Broken().run()


def test_lists_of_tensors() -> None:
    class Lists:
        @typecheck({"a": [NeuralType(("B",), LogitsType())]}, {"o": [NeuralType(("B",), LogitsType())]})
        def run(self, a: Any) -> Any:
            return [each + 1 for each in a]

    row = torch.ones(2)
    assert all(each.neural_type.rank == 1 for each in Lists().run(a=[row, row]))
    assert not hasattr(row, "neural_type")
    for wrong in ([[torch.ones(2)]], torch.ones(2), [X.clone()]):
        with pytest.raises(TypeError, match="Lists.run, argument a"):
            Lists().run(a=wrong)


def test_types_of_the_decorator_come_first_and_positions_are_allowed_where_asked() -> None:
    class Sub(Module):
        @typecheck(types("a"), types("o"), positional=True)
        def forward(self, a: Any) -> Any:
            return a if (a == 0).all() else a + 1

    assert Sub()(torch.ones(2)).neural_type.rank == 1
    assert not hasattr(Sub()(torch.zeros(2)), "neural_type")  # what is returned unchanged keeps its own type
    with pytest.raises(TypeError, match="argument a"):
        Sub()(X.clone())
    with pytest.raises(TypeError, match="at most 1"):
        Sub()(X, X)


def test_a_class_without_types_is_refused() -> None:
    class Plain:
        @typecheck
        def run(self, a: Any) -> Any:
            return a

    with pytest.raises(RuntimeError, match="Plain.run has no types"):
        Plain().run(a=1)


@pytest.mark.commands
def test_compiled_code_has_no_checks() -> None:
    module = Module()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert (compiled(X, LENGTH)[0] == X).all()  # by position: the check would refuse it


def test_a_signature_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module, calls = Module(), []
    original = NeuralType.rank.fget
    assert original is not None
    monkeypatch.setattr(NeuralType, "rank", property(lambda self: calls.append(self) or original(self)))
    for number in (3, 5, 3):
        module(x=torch.ones(2, number), length=LENGTH.clone())
    once = len(calls)
    module(x=torch.ones(2, 9), length=LENGTH.clone())
    assert len(calls) == once > 0


def test_a_recogniser_has_types_at_its_borders() -> None:
    """Samples for features, a spectrogram for the encoder, what is encoded for the decoder: anything else is named."""
    from speechdlm_ext.modules.conv_speech import ConvSpeech
    from speechdlm_ext.modules.conv_speech_configs import CONFIGURATIONS

    model = ConvSpeech(CONFIGURATIONS["matchboxnet"]["3x1x64"](), "label", 3).eval()
    wave, lengths = torch.randn(2, 8000), torch.tensor([8000, 4000])
    features, frames = model.preprocessor(wave, lengths)
    encoded, valid = model.encoder(features, frames)
    with pytest.raises(TypeError, match="ConvEncoder.forward, argument features: found axes.*Acoustic"):
        model.encoder(encoded, valid)
    with pytest.raises(TypeError, match="LabelDecoder.forward, argument x: found axes.*SpectrogramType"):
        model.decoder(features, frames)
    with pytest.raises(TypeError, match=r"Preprocessor.forward, argument wave: found Tensor of shape \(1, 2, 8000\)"):
        model.preprocessor(wave[None], lengths)
    with disable_checks():
        scores = model(wave, lengths).scores
    assert torch.equal(scores, model(wave, lengths).scores)
