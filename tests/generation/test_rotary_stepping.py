"""Steps of the unit transformer, compiled and packed, and windows from which the oldest unit is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation import compiled_rotary
from speechdlm_ext.generation.dialogue_generator import DialogueGenerator
from speechdlm_ext.generation.options import DecodingOptions
from speechdlm_ext.generation.rotary_stepping import RotaryReader
from tests.unit_models import plain_logits, toy_unit_lm, toy_unit_lstm

GROUPED = {"decoder_attention_heads": 4, "decoder_kv_heads": 2}


def plain(model: Any, rows: list[int], window: int | None = None) -> Tensor:
    """Logits ``(T, V)`` of the formulas."""
    weights = {name.removeprefix("decoder."): tensor for name, tensor in model.state_dict().items()}
    heads = model.decoder.args.decoder_attention_heads
    return plain_logits(weights, rows, heads, model.decoder.args.decoder_kv_heads or heads, window=window)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2])
@torch.no_grad()
def test_compiled_steps_are_the_full_forward_at_every_position(dtype: torch.dtype, rows: int) -> None:
    """In bf16 against the same weights in fp32: nothing but weights and caches is rounded."""
    model = toy_unit_lm(durations=True, **GROUPED).to(dtype).eval()
    exact = toy_unit_lm(durations=True, **GROUPED).to(dtype).float().eval()
    near = 2e-5 if dtype == torch.float32 else 0.12
    tokens = torch.randint(0, 21, (rows, 15))
    logits, extra = exact(tokens)
    threads = torch.get_num_threads()
    reading = RotaryReader(model.decoder, rows, compiled=True).start(15)
    at = 0
    for count in [4, 1, 1, 1, 3, 1, 1, 1, 1, 1]:
        found, durations = reading.read(tokens[:, at : at + count].unsqueeze(-1))
        wanted = logits[:, at : at + count]
        torch.testing.assert_close(found.squeeze(2).float(), wanted, atol=near, rtol=1e-5)
        assert durations is not None
        wanted = extra["durations"][:, at : at + count]
        torch.testing.assert_close(durations.squeeze(-1).float(), wanted, atol=near, rtol=1e-5)
        at += count
        if at == 6:  # rows change places, as in a beam
            order = torch.tensor([rows - 1, 0][:rows])
            reading.reorder(order)
            tokens = torch.cat([tokens[order, :6], tokens[:, 6:]], 1)
            logits, extra = exact(tokens)
    assert torch.get_num_threads() == threads


@torch.no_grad()
def test_compiled_steps_do_not_hide_what_is_not_a_number() -> None:
    model = toy_unit_lm().eval()
    model.decoder.layers[1].feed_forward.w1.weight[0] = torch.nan
    reading = RotaryReader(model.decoder, 1, compiled=True).start(4)
    reading.read(torch.ones(1, 1, 1, dtype=torch.long))
    found, _ = reading.read(torch.ones(1, 1, 1, dtype=torch.long))
    assert bool(found.isnan().all())


def test_few_rows_of_large_models_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_unit_lm()
    assert not compiled_rotary.can_compile(model.decoder, 1)
    monkeypatch.setattr(compiled_rotary, "LEAST_WEIGHTS", 1)
    assert compiled_rotary.can_compile(model.decoder, 1)
    assert not compiled_rotary.can_compile(model.decoder, compiled_rotary.MOST_ROWS + 1)
    assert not compiled_rotary.can_compile(model.double().decoder, 1)
    model.float()
    monkeypatch.setattr(compiled_rotary, "_first_process", -1)  # numba's threads were started by the parent of a fork
    assert not compiled_rotary.can_compile(model.decoder, 1)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("pieces", [[1] * 23, [3, 1, 1, 4, 1, 1, 1, 9, 1, 1], [14, 1, 1, 7]])
@torch.no_grad()
def test_a_window_is_a_banded_mask(compiled: bool, pieces: list[int]) -> None:
    model = toy_unit_lm(**GROUPED).eval()
    tokens = torch.randint(0, 21, (2, 23))
    wanted = torch.stack([plain(model, row.tolist(), window=6) for row in tokens])
    reading = RotaryReader(model.decoder, 2, compiled).start(6)
    found = torch.cat([reading.read(piece.unsqueeze(-1))[0].squeeze(2) for piece in tokens.split(pieces, 1)], 1)
    torch.testing.assert_close(found.double(), wanted, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("compiled", [True, False])
@torch.no_grad()
def test_beyond_8000_positions_what_is_said_depends_on_the_last_units_alone(compiled: bool) -> None:
    """Each of two layers looks back by 31 units, and rotary positions tell nothing but distances."""
    model = toy_unit_lm().eval()
    tokens = torch.randint(0, 21, (1, 8100, 1))
    reading = RotaryReader(model.decoder, 1, compiled).start(32)
    reading.skip(tokens[:, :8090])
    found = torch.cat([reading.read(tokens[:, at : at + 1])[0] for at in range(8090, 8100)], 1)[0, :, 0]
    assert reading.length == 8100
    wanted = plain(model, tokens[0, -80:, 0].tolist(), window=32)[-10:]
    torch.testing.assert_close(found.double(), wanted, atol=2e-4, rtol=1e-4)


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
        wanted = lprobs.gather(-1, torch.tensor([*rows[1:], 0]).unsqueeze(-1))
        torch.testing.assert_close(best.positional_scores.double(), wanted, atol=1e-4, rtol=1e-4)
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
