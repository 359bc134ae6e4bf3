"""Options that fairseq evaluates: all those that its models use, and none that runs code."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from types import CodeType, FunctionType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.compat.fairseq.safe_eval import evaluate
from speechdlm_ext.errors import InputError

literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=30)
@given(literals)
def test_literals_are_what_eval_makes_of_them(value: object) -> None:
    if "inf" not in repr(value):
        assert evaluate(repr(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
        "(0.9, 0.98)",
        " [1e-4, 5e-4]",
        "((256, 4, 1024, True, 0.2, 0.2, 0.2),) * 2",
        "[(400, 13, 170, 0.2)] + [(440, 14, 0, 0.214)]",
        "-2 ** 3",
        "{'a': 1}",
        "not False",
        "7 // 2 - 7 % 2",
    ],
)
def test_expressions_of_fairseqs_models(text: str) -> None:
    assert evaluate(text) == builtins.eval(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "os.getcwd()",
        "().__class__.__bases__[0].__subclasses__()",
        "[x for x in (1, 2)]",
        "lambda: 0",
        "f'{1}'",
        "open",
        "(y := 1)",
        "[0] * 10**9",
        "9 ** 9 ** 9",
        "'%1000000000d' % 1",
        "1 / 0",
        "{**{'a': 1}}",
        "[1",
    ],
)
def test_nothing_else_is_run(text: str) -> None:
    with pytest.raises(InputError, match="is not run as Python"):
        evaluate(text)


def test_the_switch_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHDLM_TRUST_CHECKPOINTS", "1")
    evaluate(f"open({str(tmp_path / 'marker')!r}, 'w').close()")
    assert (tmp_path / "marker").exists()


def test_what_is_no_string_is_an_error_that_fairseq_expects() -> None:
    from fairseq.utils import eval_bool

    assert eval_bool(None, default=True) is True
    assert eval_bool(1, default=True) is True  # eval(1) is a TypeError, and the default its answer
    assert eval_bool("False") is False


def test_no_module_of_fairseq_has_the_builtin() -> None:
    """Every function of fairseq that calls ``eval`` finds ours."""
    import fairseq  # noqa: F401

    using = set()
    for name, module in list(sys.modules.items()):
        if name.startswith("fairseq."):
            for value in list(vars(module).values()):
                codes = [value.__code__] if isinstance(value, FunctionType) else []
                if isinstance(value, type):
                    codes += [part.__code__ for part in vars(value).values() if isinstance(part, FunctionType)]
                if any(_calls_eval(code) for code in codes) and getattr(value, "__module__", "") == module.__name__:
                    using.add(name)
    assert len(using) > 5
    assert all(vars(sys.modules[name])["eval"] is evaluate for name in using)


def _calls_eval(code: CodeType) -> bool:
    import dis

    if "eval" not in code.co_names:
        return False  # without the time that taking it apart needs
    return any(step.argval == "eval" and "GLOBAL" in step.opname for step in dis.get_instructions(code))
