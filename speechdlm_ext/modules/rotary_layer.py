"""One layer of the unit language models: attention with rotary positions, then a gated feed-forward block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from speechdlm_ext.modules.dropout import add_dropped
from speechdlm_ext.modules.gated_linear import gated_linear
from speechdlm_ext.modules.projections import project_all
from speechdlm_ext.modules.rms_norm import RMSNorm
from speechdlm_ext.modules.rotary import Rotation

# Attention over queries, keys and values (…, heads, d), wherever the keys of earlier positions are.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
# Queries, keys and values (…, heads · d), before rotation.
Projected = tuple[Tensor, Tensor, Tensor]


class RotaryAttention(nn.Module):
    """Multi-head self-attention without biases; parameters are named as in the published checkpoints.

    Args:
        kv_heads: heads of keys and values; each serves ``heads / kv_heads`` of the queries'.
    """

    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.wq = nn.Linear(dim, heads * head_dim, bias=False)
        self.wk = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.wv = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.wo = nn.Linear(heads * head_dim, dim, bias=False)

    def project(self, x: Tensor, norm: RMSNorm) -> Projected:
        """Queries, keys and values of ``(…, D)``, which is normalised before."""
        q, k, v = project_all(x, [self.wq.weight, self.wk.weight, self.wv.weight], norm)
        return q, k, v

    def forward(self, projected: Projected, turn: Rotation, attend: Attend) -> Tensor:
        """What :meth:`project` made, to ``(…, D)``."""
        q, k, v = (x.unflatten(-1, (-1, self.head_dim)) for x in projected)
        out: Tensor = self.wo(attend(turn(q), turn(k), v).flatten(-2))
        return out


class GatedFeedForward(nn.Module):
    """SwiGLU: ``w2(silu(w1 x) · w3 x)`` (Shazeer 2020), without biases."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden_dim, bias=False)
        self.w2 = nn.Linear(hidden_dim, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden_dim, bias=False)

    def forward(self, x: Tensor, norm: RMSNorm) -> Tensor:
        """``(…, D)``, which is normalised before, to the same."""
        gate, hidden = project_all(x, [self.w1.weight, self.w3.weight], norm)
        return gated_linear(gate, hidden, self.w2.weight)


class RotaryLayer(nn.Module):
    """Pre-norm transformer layer; dropout at the end of both residual branches, as published, and nowhere else."""

    def __init__(
        self, dim: int, hidden_dim: int, heads: int, kv_heads: int, head_dim: int, eps: float, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.attention = RotaryAttention(dim, heads, kv_heads, head_dim)
        self.feed_forward = GatedFeedForward(dim, hidden_dim)
        self.attention_norm = RMSNorm(dim, eps)
        self.ffn_norm = RMSNorm(dim, eps)

    def project(self, x: Tensor) -> Projected:
        """What attention needs of positions ``(…, D)``, before rotation: it depends on nothing but ``x``."""
        return self.attention.project(x, self.attention_norm)

    def forward(self, x: Tensor, turn: Rotation, attend: Attend, projected: Projected | None = None) -> Tensor:
        """``(…, D)`` to the same; ``projected`` is what :meth:`project` makes of ``x``, where that is known."""
        heard = self.attention(self.project(x) if projected is None else projected, turn, attend)
        x = add_dropped(x, heard, self.dropout, self.training)
        return add_dropped(x, self.feed_forward(x, self.ffn_norm), self.dropout, self.training)
