"""Batches cut into pieces: nothing is lost, and gradients and logs in sum are those of the whole."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechdlm_ext.data.micro_batches import cut_batch
from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.tasks.unit_language_modeling import UnitLanguageModelingTask
from tests.criterions.test_unit_lm_criterion import PAD, logged, toy_batch, toy_criterion
from tests.unit_models import toy_unit_lm, toy_unit_lstm


@given(st.lists(st.integers(2, 30), min_size=1, max_size=30), st.integers(1, 60), st.booleans())
def test_pieces_together_are_the_batch(lengths: list[int], places: int, masked: bool) -> None:
    lengths = sorted(lengths, reverse=True)
    batch = {**toy_batch(lengths, masked), "id": torch.arange(len(lengths))}
    pieces = list(cut_batch(batch, places, PAD))
    assert sorted(int(item) for piece in pieces for item in piece["id"]) == list(range(len(lengths)))
    for name in ("ntokens", "nsentences", "frames"):
        assert sum(piece[name] for piece in pieces) == batch[name]
    whole = {name: tensor.split(lengths) for name, tensor in packed(batch).items()}
    for piece in pieces:
        own = piece["net_input"]["src_lengths"]
        assert own == [lengths[item] for item in piece["id"]] and list(piece["id"]) == sorted(piece["id"])
        for name, tensor in packed(piece).items():
            assert torch.equal(tensor, torch.cat([whole[name][item] for item in piece["id"]]))
        assert piece["ntokens"] == int(piece["target"].ne(PAD).sum())
    assert len(pieces) <= -(-sum(lengths) // places)
    # Without the item that it was given last, no piece is larger than any other.
    sizes = [piece["net_input"]["src_lengths"] for piece in pieces]
    assert len(pieces) == 1 or max(sum(own) - min(own) for own in sizes) <= min(sum(own) for own in sizes)


def packed(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {"source": batch["net_input"]["src_tokens"], "target": batch["target"], "durations": batch["durations"]}


def toy_task() -> UnitLanguageModelingTask:
    """A task without data."""
    task = UnitLanguageModelingTask.__new__(UnitLanguageModelingTask)
    task.dictionary = UnitDictionary(20)
    return task


class Optimizer:
    """What fairseq's does in the backward pass; which were exchanged, and which had sums to add to."""

    def __init__(self, model: Any) -> None:
        self.model, self.exchanged, self.begun = model, [], []

    def backward(self, loss: torch.Tensor) -> None:
        self.exchanged.append(not self.model.held_back)
        self.begun.append(all(parameter.grad is not None for parameter in self.model.parameters()))
        loss.backward()


@pytest.mark.parametrize("make", [toy_unit_lm, toy_unit_lstm])
@pytest.mark.parametrize("masked", [False, True])
def test_a_training_step_in_pieces_is_that_of_the_batch(make: Any, masked: bool) -> None:
    lengths = [12, 9, 9, 7, 5, 3]
    batch = {**toy_batch(lengths, masked), "id": torch.arange(6)}
    task = toy_task()
    criterion = toy_criterion(durations=True, frame_rate=50.0, label_smoothing=0.1)
    results = []
    for places in (None, 15):
        model = make(durations=True)
        model.decoder.trained_on_cpu = places
        model.held_back = False

        @contextmanager
        def no_sync(model: Any = model) -> Any:
            model.held_back = True
            yield
            model.held_back = False

        model.no_sync = no_sync
        optimizer = Optimizer(model)
        loss, size, logs = task.train_step(batch, model, criterion, optimizer, 0)
        assert optimizer.exchanged == ([True] if places is None else [False] * 2 + [True])
        # What pieces add to is made before them, and lies in nobody's way.
        assert optimizer.begun == ([False] if places is None else [True] * 3)
        results.append((float(loss.detach()), size, logged(logs), [parameter.grad for parameter in model.parameters()]))
    whole, cut = results
    assert cut[1] == whole[1] and cut[0] == pytest.approx(whole[0], rel=1e-5)
    assert cut[2] == pytest.approx(whole[2], rel=1e-5)
    for one, other in zip(cut[3], whole[3], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_step_of_nothing_trained_has_no_gradient() -> None:
    """As fairseq has it for a process that has no batch left."""
    model = toy_unit_lm()
    model.decoder.trained_on_cpu, model.held_back = 5, False
    task = toy_task()
    batch = {**toy_batch([4, 4, 4]), "id": torch.arange(3)}
    task.train_step(batch, model, toy_criterion(), Optimizer(model), 0, ignore_grad=True)
    assert all(not parameter.grad.any() for parameter in model.parameters())
