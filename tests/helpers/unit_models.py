"""Toy unit language models, and a plain implementation of the published transformer to hold them against."""

from __future__ import annotations

import math
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from fairseq import metrics
from torch import Tensor

import speechdlm_ext.plugin  # noqa: F401 - registers
from speechdlm_ext.criterions.unit_lm_criterion import UnitLMCriterion
from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.models.unit_lm import UnitLM, UnitLMConfig
from speechdlm_ext.models.unit_lstm import UnitLSTM, UnitLSTMConfig
from speechdlm_ext.modules.padding import pad_right


def _build(kind: Any, config: Any, units: int, options: dict[str, Any]) -> Any:
    args = Namespace(**{**vars(config), "durations": False, **options})
    return kind.build_model(args, SimpleNamespace(source_dictionary=UnitDictionary(units)))


def toy_unit_lm(units: int = 20, seed: int = 0, **options: Any) -> UnitLM:
    """A small transformer with weights so large that everything in it matters."""
    torch.manual_seed(seed)
    sizes = {"decoder_embed_dim": 16, "decoder_ffn_embed_dim": 24, "decoder_layers": 2, "decoder_attention_heads": 2}
    model: UnitLM = _build(UnitLM, UnitLMConfig(), units, {**sizes, "dropout": 0.0, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def toy_unit_lstm(units: int = 20, seed: int = 0, **options: Any) -> UnitLSTM:
    """A small LSTM with weights so large that everything in it matters."""
    torch.manual_seed(seed)
    sizes = {"decoder_embed_dim": 8, "decoder_hidden_size": 12, "decoder_layers": 2, "dropout": 0.0}
    model: UnitLSTM = _build(UnitLSTM, UnitLSTMConfig(), units, {**sizes, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def plain_logits(
    weights: dict[str, Tensor],
    rows: list[int],
    heads: int,
    kv_heads: int,
    eps: float = 1e-6,
    window: int | None = None,
) -> Tensor:
    """The published transformer's logits ``(T, K + 1)`` for one sequence, formula by formula in fp64, without packing.

    Args:
        weights: by published names.
        window: positions that each attends to, itself and those before it; all, if not given.
    """
    w = {name: tensor.double() for name, tensor in weights.items()}

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).sum(-1, keepdim=True) / x.size(-1) + eps) * weight

    def turn(vector: Tensor, position: int) -> Tensor:
        out = vector.clone()
        for j in range(len(vector) // 2):
            angle = position * 10000.0 ** (-2 * j / len(vector))
            a, b = vector[2 * j], vector[2 * j + 1]
            out[2 * j] = a * math.cos(angle) - b * math.sin(angle)
            out[2 * j + 1] = a * math.sin(angle) + b * math.cos(angle)
        return out

    x = w["tok_embeddings.weight"][torch.tensor(rows)]
    for layer in range(sum(name.endswith("wq.weight") for name in w)):
        p = f"layers.{layer}."
        h = norm(x, w[p + "attention_norm.weight"])
        q, k, v = (h @ w[f"{p}attention.{name}.weight"].t() for name in ("wq", "wk", "wv"))
        d = q.size(1) // heads
        out = torch.zeros_like(q)
        for head in range(heads):
            mine, theirs = slice(head * d, (head + 1) * d), (head // (heads // kv_heads)) * d
            queries = torch.stack([turn(q[t, mine], t) for t in range(len(rows))])
            keys = torch.stack([turn(k[t, theirs : theirs + d], t) for t in range(len(rows))])
            for t in range(len(rows)):
                seen = slice(0 if window is None else max(t + 1 - window, 0), t + 1)
                attention = torch.softmax(keys[seen] @ queries[t] / math.sqrt(d), 0)
                out[t, mine] = attention @ v[seen, theirs : theirs + d]
        x = x + out @ w[p + "attention.wo.weight"].t()
        h = norm(x, w[p + "ffn_norm.weight"])
        gate = h @ w[p + "feed_forward.w1.weight"].t()
        hidden = gate / (1 + torch.exp(-gate)) * (h @ w[p + "feed_forward.w3.weight"].t())
        x = x + F.linear(hidden, w[p + "feed_forward.w2.weight"])
    return norm(x, w["norm.weight"]) @ w["output.weight"].t()


def attention_by_definition(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, _: Tensor, longest: int, __: int, **options: Any
) -> Tensor:
    """What ``torch.nn.attention.varlen.varlen_attn`` computes on a GPU."""
    assert options == {"window_size": (-1, 0), "enable_gqa": q.size(1) != k.size(1)} and starts.dtype == torch.int32
    lengths = starts.diff().tolist()
    assert max(lengths) <= longest
    visible = torch.block_diag(*[torch.ones(n, n).tril() for n in lengths]).bool()
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.size(-1) ** 0.5
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~visible, -torch.inf).softmax(-1), v)


@torch.no_grad()
def likelihood(model: Any, units: list[int], ending: bool = False) -> float:
    """Σ log p, one prediction at a time from the whole history."""
    rows, total = [0], 0.0
    for row in [*(unit + 1 for unit in units), *([0] if ending else [])]:
        logits = model(torch.tensor([rows]))[0][0, -1].double()
        total += float(logits[row] - torch.logsumexp(logits, 0))
        rows.append(row)
    return total


PAD = 21  # of a dictionary of 20 units


def toy_criterion(durations: bool = False, frame_rate: float | None = None, **options: Any) -> UnitLMCriterion:
    task = SimpleNamespace(
        target_dictionary=UnitDictionary(20), frame_rate=frame_rate, cfg=SimpleNamespace(durations=durations)
    )
    return UnitLMCriterion(
        task, **{"sentence_avg": False, "label_smoothing": 0.0, "duration_loss_weight": 0.1, **options}
    )


def toy_batch(lengths: list[int], masked: bool = False, seed: int = 0) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    bos = torch.zeros(1, dtype=torch.long)
    sources, targets, durations = [], [], []
    for length in lengths:
        units = torch.randint(1, 21, (length - 1,), generator=random)
        sources.append(torch.cat([bos, units]))
        targets.append(torch.cat([units, bos]))
        durations.append(torch.cat([bos, torch.randint(1, 9, (length - 1,), generator=random)]))
        if masked:
            targets[-1][0] = PAD
    source, target = pad_right(sources, PAD), pad_right(targets, PAD)
    return {
        "net_input": {"src_tokens": source, "src_lengths": torch.tensor(lengths)},
        "target": target,
        "durations": pad_right(durations, 0),
        "frames": int(torch.cat(durations).sum()),
        "ntokens": sum(lengths) - masked * len(lengths),
        "units": int((target.ne(PAD) & target.ne(0)).sum()),
        "timed": sum(lengths) - len(lengths),
        "nsentences": len(lengths),
    }


def logged(*logs: dict[str, Any]) -> dict[str, float]:
    with metrics.aggregate(new_root=True) as found:
        UnitLMCriterion.reduce_metrics(list(logs))
    return dict(found.get_smoothed_values())
