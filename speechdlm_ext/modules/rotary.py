"""Rotary positions on interleaved pairs (Su et al. 2021), for any number of positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Rotation:
    """Turns pairs of neighbouring components of queries and keys by angles that grow with the position.

    Pair j of a head of d components is turned by ``position · theta^(-2j / d)``. Angles are computed in fp64, so that
    far positions are as exact as near ones.

    Args:
        positions: ``(…)`` integers.
        head_dim: d, even.
        theta: base of the wavelengths.
    """

    def __init__(self, positions: Tensor, head_dim: int, theta: float) -> None:
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device) / head_dim
        angles = positions.to(torch.float64).unsqueeze(-1) * theta**-exponents  # (…, d/2)
        self.cos, self.sin = angles.cos().unsqueeze(-2), angles.sin().unsqueeze(-2)  # (…, 1, d/2)
        self._turns: dict[torch.dtype, Tensor] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """``(…, heads, d)``, turned in fp32 (in fp64 where it is), in x's dtype."""
        precise = x if x.dtype == torch.float64 else x.float()
        turned: Tensor = _Turned.apply(precise, self._turn(precise.dtype))
        return turned.type_as(x)

    def turn_in_place(self, x: Tensor) -> Tensor:
        """The same, written over ``x`` where its precision allows that; ``x`` is lost in any case."""
        if x.dtype not in (torch.float32, torch.float64):
            return self(x)
        torch.view_as_complex(x.unflatten(-1, (-1, 2))).mul_(self._turn(x.dtype))
        return x

    def _turn(self, dtype: torch.dtype) -> Tensor:
        """The turns as complex numbers of a precision, ``(…, 1, d/2)``; made once."""
        if dtype not in self._turns:
            self._turns[dtype] = torch.complex(self.cos.to(dtype), self.sin.to(dtype))
        return self._turns[dtype]


class _Turned(torch.autograd.Function):
    """Products of complex numbers, as one step for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, turn: Tensor) -> Tensor:
        ctx.save_for_backward(turn)
        return _multiply(x, turn)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (turn,) = ctx.saved_tensors
        return _multiply(gradient, turn.conj()), None


def _multiply(x: Tensor, turn: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.contiguous().unflatten(-1, (-1, 2)))  # (…, heads, d/2)
    return torch.view_as_real(pairs * turn).flatten(-2)
