"""The loss of unit language models against loops over single tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss

from speechdlm_ext.errors import InputError
from tests.helpers.unit_models import PAD, logged, toy_batch, toy_criterion, toy_unit_lm, toy_unit_lstm


@pytest.mark.parametrize("make", [toy_unit_lm, toy_unit_lstm])
@pytest.mark.parametrize("masked", [False, True])
def test_every_figure_is_that_of_a_plain_loop(make: Any, masked: bool) -> None:
    model = make(durations=True).eval()
    sample = toy_batch([9, 4, 4, 2], masked)
    criterion = toy_criterion(durations=True, frame_rate=50.0, duration_loss_weight=0.3)
    loss, size, logs = criterion(model, sample)
    with torch.no_grad():
        logits, extra = model(**sample["net_input"])
    nll, unit_nll, units, correct, distance, timed = 0.0, 0.0, 0, 0, 0.0, 0
    for number, row in enumerate(sample["target"].flatten().tolist()):
        place = divmod(number, sample["target"].size(1))
        frames = int(sample["durations"][place])
        if frames:
            distance, timed = distance + abs(float(extra["durations"][place]) - frames), timed + 1
        if row == PAD:
            continue
        probabilities = [math.exp(float(x)) for x in logits[place].double()]
        bits = -math.log(probabilities[row] / sum(probabilities))
        nll += bits
        if row:
            unit_nll, units = unit_nll + bits, units + 1
            correct += int(logits[place].argmax()) == row
    assert size == sum([9, 4, 4, 2]) - 4 * masked
    assert float(loss.detach()) == pytest.approx(nll + 0.3 * distance, rel=1e-5)
    found = logged(logs)
    assert found["loss"] == pytest.approx(float(loss.detach()) / size / math.log(2), abs=1e-5)
    assert found["nll_loss"] == pytest.approx(nll / size / math.log(2), abs=1e-5)
    assert found["ppl"] == pytest.approx(math.exp(nll / size), rel=0.01)
    assert found["bits_per_unit"] == pytest.approx(unit_nll / units / math.log(2), abs=1e-5)
    seconds = sample["frames"] / 50
    assert found["bits_per_second"] == pytest.approx(unit_nll / math.log(2) / seconds, rel=1e-5)
    assert found["accuracy"] == pytest.approx(100 * correct / units, abs=1e-4)
    assert found["duration_loss"] == pytest.approx(distance / timed, rel=1e-5)


def test_seconds_that_are_not_known_are_not_shown() -> None:
    model = toy_unit_lm().eval()
    found = logged(toy_criterion()(model, toy_batch([5, 3]))[2])
    assert "bits_per_unit" in found and not {"bits_per_second", "duration_loss"} & found.keys()
    per_frame = {**toy_batch([5, 3]), "frames": 6}  # six units, a frame each
    found = logged(toy_criterion(frame_rate=25.0)(model, per_frame)[2])
    assert found["bits_per_second"] == pytest.approx(25 * found["bits_per_unit"], rel=1e-5)


def test_label_smoothing_is_fairseqs() -> None:
    model = toy_unit_lm().eval()
    sample = toy_batch([7, 5], masked=True)
    loss, _, logs = toy_criterion(label_smoothing=0.2)(model, sample)
    kept = sample["target"] != PAD
    lprobs = model.get_normalized_probs(model(**sample["net_input"]), True)[kept][:, :-1]
    expected, nll = label_smoothed_nll_loss(lprobs, sample["target"][kept], 0.2)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(logs["nll_loss"]) == pytest.approx(float(nll.detach()), rel=1e-5)


@pytest.mark.parametrize("make", [toy_unit_lm, toy_unit_lstm])
def test_gradients_and_figures_do_not_depend_on_how_batches_are_composed(make: Any) -> None:
    model = make(durations=True)
    criterion = toy_criterion(durations=True, frame_rate=50.0, label_smoothing=0.1)
    whole, lengths = toy_batch([8, 5, 2], seed=3), [8, 5, 2]
    single = []
    for row, length in enumerate(lengths):
        target = whole["target"][row : row + 1, :length]
        durations = whole["durations"][row : row + 1, :length]
        counts = {"ntokens": length, "units": length - 1, "timed": length - 1, "nsentences": 1}
        net_input = {"src_tokens": whole["net_input"]["src_tokens"][row : row + 1, :length]}
        frames = int(durations.sum())
        single.append({"net_input": net_input, "target": target, "durations": durations, "frames": frames, **counts})
    results = []
    for batches in ([whole], single):
        model.zero_grad()
        logs, sizes = [], 0
        for batch in batches:
            loss, size, log = criterion(model, batch)
            loss.backward()
            logs.append(log)
            sizes += size
        results.append([*(p.grad.clone() for p in model.parameters()), torch.tensor([sizes, *logged(*logs).values()])])
    for first, second in zip(*results, strict=True):
        assert torch.allclose(first, second, atol=1e-4)


def test_options_out_of_range_are_refused() -> None:
    for options in ({"label_smoothing": 1.0}, {"label_smoothing": -0.1}):
        with pytest.raises(InputError, match="--label-smoothing"):
            toy_criterion(**options)
    with pytest.raises(InputError, match="--duration-loss-weight 0.0"):
        toy_criterion(durations=True, duration_loss_weight=0.0)
