"""Windows of the unit transformer, from which the oldest unit is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.generator import DialogueGenerator
from speechdlm_ext.generation.options import DecodingOptions
from tests.helpers.unit_models import plain_logits, toy_unit_lm, toy_unit_lstm

GROUPED = {"decoder_attention_heads": 4, "decoder_kv_heads": 2}


def plain(model: Any, rows: list[int], window: int | None = None) -> Tensor:
    """Logits ``(T, V)`` of the formulas."""
    weights = {name.removeprefix("decoder."): tensor for name, tensor in model.state_dict().items()}
    heads = model.decoder.args.decoder_attention_heads
    return plain_logits(weights, rows, heads, model.decoder.args.decoder_kv_heads or heads, window=window)


@torch.no_grad()
def read(model: Any, cache: Any, tokens: Tensor) -> Tensor:
    """Logits ``(rows, n, V)`` after tokens ``(rows, n)`` more."""
    (prediction,), _ = model.decoder(tokens.unsqueeze(-1), cache=cache.extend(tokens.size(1)))
    return prediction.units.squeeze(2)  # type: ignore[no-any-return]


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("chunks", [[1] * 23, [3, 1, 1, 4, 1, 1, 1, 9, 1, 1], [14, 1, 1, 7]])
def test_a_window_is_a_banded_mask(static: bool, chunks: list[int]) -> None:
    model = toy_unit_lm(**GROUPED).eval()
    tokens = torch.randint(0, 21, (2, 23))
    expected = torch.stack([plain(model, row.tolist(), window=6) for row in tokens])
    cache = model.decoder.make_cache(6, static)
    found = torch.cat([read(model, cache, chunk) for chunk in tokens.split(chunks, 1)], 1)
    torch.testing.assert_close(found.double(), expected, atol=5e-5, rtol=1e-5)


@pytest.mark.commands
@pytest.mark.parametrize("static", [True, False])
def test_beyond_8000_positions_predictions_depend_on_the_last_units_alone(static: bool) -> None:
    """Each of two layers sees 31 units back, and rotary positions depend on distances alone."""
    model = toy_unit_lm().eval()
    tokens = torch.randint(0, 21, (1, 8100))
    cache = model.decoder.make_cache(32, static)
    for chunk in tokens[:, :8090].split(32, 1):
        read(model, cache, chunk)
    found = torch.cat([read(model, cache, tokens[:, at : at + 1]) for at in range(8090, 8100)], 1)[0]
    assert cache.length == 8100
    expected = plain(model, tokens[0, -80:].tolist(), window=32)[-10:]
    torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=1e-4)


def test_sampling_within_a_window() -> None:
    model = toy_unit_lm().eval()
    start = torch.randint(1, 21, (11, 1))

    def continued(**options: Any) -> Any:
        core = DialogueGenerator([model], model.decoder.dictionary, DecodingOptions(max_len_b=30, **options))
        return core.generate([start], [5])[0][0]

    for options in ({"sampling": True}, {"beam": 3}):
        best = continued(window=7, **options)
        rows = [0, *best.units[:, 0].tolist()]
        lprobs = plain(model, rows, window=7).log_softmax(-1)
        expected = lprobs.gather(-1, torch.tensor([*rows[1:], 0]).unsqueeze(-1))
        torch.testing.assert_close(best.positional_scores.double(), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(continued(window=31, sampling=True).units, continued(sampling=True).units)
    with pytest.raises(InputError, match="let the window slide"):
        continued(window=7, slide=False)
    with pytest.raises(InputError, match="2 is the least"):
        DecodingOptions(window=1)


def test_an_lstm_has_no_window() -> None:
    model = toy_unit_lstm().eval()
    cores = [DialogueGenerator([model], model.decoder.dictionary, DecodingOptions(window=w)) for w in (None, 5)]
    whole, windowed = (core.generate([torch.ones(3, 1, dtype=torch.long)], [1])[0][0] for core in cores)
    assert torch.equal(whole.units, windowed.units)
