"""Options that fairseq hands to ``eval``, although a checkpoint may bring them: read as literals, never run.

``conv_feature_layers`` of wav2vec 2.0 and HuBERT is ``[(512, 10, 5)] + [(512, 3, 2)] * 4``, so sums and products of
literals are understood; names and calls are not.
"""

from __future__ import annotations

import ast
import builtins
import operator
from typing import Any

from speechdlm_ext.compat.checkpoints import TRUST_VARIABLE, trusted
from speechdlm_ext.compat.errors import InputError
from speechdlm_ext.compat.repair import Repair

_LONGEST = 1_000_000  # elements of a repeated sequence, digits of a power: enough for any model, no bomb
_BINARY: dict[type[ast.operator], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Any] = {ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Not: operator.not_}


def evaluate(text: Any, *scopes: Any) -> Any:
    """The value of an expression made of literals, as ``eval`` would give it.

    Raises:
        InputError: the expression has names, calls or anything else in it that runs code.
        TypeError: ``text`` is no string; fairseq relies on it.
    """
    if not isinstance(text, str):
        raise TypeError(f"an expression must be a string, not {type(text).__name__}")
    if trusted():
        return builtins.eval(text, *scopes)
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (ArithmeticError, SyntaxError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the option {text[:120]!r} is not run as Python ({error}): write numbers, strings, lists and tuples, "
            f"or set {TRUST_VARIABLE}=1 if you trust where it comes from"
        ) from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(map(_value, node.elts))
    if isinstance(node, ast.List):
        return list(map(_value, node.elts))
    if isinstance(node, ast.Set):
        return set(map(_value, node.elts))
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _value(node.left), _value(node.right)
        _check_size(node.op, left, right)
        return _BINARY[type(node.op)](left, right)
    what = f"the name {node.id}" if isinstance(node, ast.Name) else f"a {type(node).__name__.lower()}"
    raise ValueError(f"it has {what} in it")


def _check_size(op: ast.operator, left: Any, right: Any) -> None:
    if isinstance(op, ast.Mult):
        for sequence, times in ((left, right), (right, left)):
            if hasattr(sequence, "__len__") and isinstance(times, int) and len(sequence) * times > _LONGEST:
                raise ValueError("it makes too long a sequence")
    if isinstance(op, ast.Mod) and isinstance(left, str):
        raise ValueError("it formats a string")
    if isinstance(op, ast.Pow) and isinstance(right, int) and abs(right) > 64:
        raise ValueError("it makes too large a number")


def _read_literals(module: Any) -> None:
    # A module's own name hides the builtin one for all code in it.
    module.eval = evaluate


REPAIRS = [
    Repair(
        name="evaluated-options",
        package="fairseq",
        fault="options that come with a checkpoint (conv_feature_layers, decoder_layers, …) are run as Python code",
        changes={"fairseq.*": _read_literals},
        security=True,
    ),
]
