"""No step of a unit language model makes the host wait for the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers.host_syncs import counted_syncs
from tests.helpers.unit_models import logged, toy_batch, toy_criterion, toy_unit_lm, toy_unit_lstm

BUILDERS = [toy_unit_lm, toy_unit_lstm]


@pytest.mark.parametrize("build", BUILDERS)
def test_a_training_step_waits_for_nothing_but_the_sums_of_its_log(build: Any) -> None:
    model = build(dropout=0.1, durations=True).train()
    criterion = toy_criterion(durations=True, frame_rate=50.0, label_smoothing=0.1)
    batch = toy_batch([9, 7, 3], masked=True)
    with counted_syncs() as found:
        loss, size, logs = criterion(model, batch)
        loss.backward()
        logged(logs)
    assert found == {"tolist": 1} and isinstance(size, int)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("build", BUILDERS)
@torch.no_grad()
def test_a_decoding_step_waits_for_nothing(build: Any, static: bool) -> None:
    model = build(durations=True).eval()
    cache = model.decoder.make_cache(8, static)
    tokens = torch.randint(0, 21, (2, 5, 1))
    with counted_syncs() as found:
        model.decoder(tokens, cache=cache.extend(5))
        for _ in range(6):  # beyond the window
            model.decoder(tokens[:, :1], cache=cache.extend(1))
        cache.select(torch.tensor([1, 1]))
    assert not found
