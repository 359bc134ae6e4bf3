"""The SpeechDLM's loss against the published figures, brute force, and the defects of the published code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import metrics

from speechdlm_ext.criterions.speech_dlm_criterion import SpeechDLMCriterion
from speechdlm_ext.data.unit_counts import share_counts
from speechdlm_ext.errors import InputError
from tests.helpers.host_syncs import counted_syncs
from tests.helpers.published import (
    TARGETS,
    VARIANTS,
    batch,
    load,
    read_json,
    sample_of,
    toy_batch,
    toy_criterion,
    toy_model,
)


def rows_of(sample: dict[str, Any], row: int) -> dict[str, Any]:
    length = int(sample["target"][row, :, 0].ne(1).sum())
    whole = sample["net_input"]["src_tokens"], sample["target"], sample["durations"]
    return sample_of(*(values[row : row + 1, :length] for values in whole))


@pytest.mark.parametrize("variant", VARIANTS)
def test_full_batch_has_the_published_loss_and_logs(reference: Path, variant: str) -> None:
    model, _, criterion = load(reference, variant)
    sample, _ = batch(reference, variant, "full")
    with torch.no_grad():
        loss, size, logs = criterion(model, sample)
    expected = read_json(reference / variant / "criterion_full.json")
    assert float(loss) == pytest.approx(expected["loss"], rel=1e-5)
    assert size == expected["sample_size"]
    assert {key: float(logs[key]) for key in expected["logging_output"]} == pytest.approx(
        expected["logging_output"], rel=1e-5
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_padded_batch_has_the_published_sums_and_counts_no_padding(reference: Path, variant: str) -> None:
    model, _, criterion = load(reference, variant)
    sample, arrays = batch(reference, variant, "padded")
    with torch.no_grad():
        _, size, logs = criterion(model, sample)
    published = read_json(reference / variant / "criterion_padded.json")["logging_output"]
    sums = {k: v for k, v in published.items() if k.startswith("[") and k.endswith(("_loss", "_correct", "_count"))}
    assert {key: float(logs[key]) for key in sums} == pytest.approx(sums, rel=1e-5)
    pairs = 2 if variant == "A" else 4
    assert size == pairs * int(arrays["src_lengths"].sum()) < published["sample_size"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_validation_block_has_the_published_loss(reference: Path, variant: str) -> None:
    model, task, criterion = load(reference, variant)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    expected = read_json(reference / variant / "criterion_valid.json")["blocks_per_batch_1"]
    assert len(dataset) == expected["n_blocks"]
    summed: dict[str, float] = {}
    for i in range(len(dataset)):
        with torch.no_grad():
            loss, size, logs = criterion(model, dataset.collater([dataset[i]]))
        assert [float(loss), size] == pytest.approx(expected["per_batch_loss_and_sample_size"][i], rel=1e-5)
        for key, value in logs.items():
            summed[key] = summed.get(key, 0.0) + float(value)
    assert {k: summed[k] for k in expected["summed_logging_output"]} == pytest.approx(
        expected["summed_logging_output"], rel=1e-5
    )


@pytest.mark.parametrize("delayed", [True, False])
@pytest.mark.parametrize(("channels", "weights"), [(1, "1,0"), (2, "1,0"), (2, "0.6,0.4"), (3, "0.6,0.4")])
def test_the_loss_is_its_definition(channels: int, weights: str, delayed: bool) -> None:
    model = toy_model(channels, main_and_cross_weights=weights)
    criterion = toy_criterion(
        channels,
        delayed=delayed,
        main_and_cross_weights=weights,
        general_unit_loss_weight=0.5,
        edge_unit_loss_weight=2.0,
        duration_loss_weight=0.25,
        channel_weights=[1.0, 0.5, 2.0][:channels],
    )
    sample = toy_batch([13, 13, 7], channels)
    with torch.no_grad():
        loss, size, _ = criterion(model, sample)
        heads = model(sample["net_input"]["src_tokens"])[0]
    main, cross = (float(w) for w in weights.split(","))
    target, durations = sample["target"], sample["durations"]
    expected, tokens = 0.0, 33
    for source in range(channels):
        for predicted in range(channels) if cross else [source]:
            head = heads[(predicted - source) % channels]
            nexts = edges = spans = 0.0
            edge_count = span_count = 0
            for row, length in enumerate([13, 13, 7]):
                lprobs = head.units[row, :, predicted].log_softmax(-1)
                for t in range(length):
                    nll = -float(lprobs[t, target[row, t, predicted]])
                    nexts += nll
                    run = int(durations[row, t, predicted])
                    if run:
                        edges, edge_count = edges + nll, edge_count + 1
                        if t + delayed < length:
                            spans += abs(float(head.durations[row, t + delayed, predicted]) - run)
                            span_count += 1
            weight = [1.0, 0.5, 2.0][source] * (main if source == predicted else cross)
            parts = 0.5 * nexts + 2.0 * tokens * edges / edge_count + 0.25 * tokens * spans / span_count
            expected += weight * parts
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert size == tokens * channels * (channels if cross else 1)


@pytest.mark.parametrize("targets", [["next"], ["edge", "duration"], TARGETS])
def test_a_rows_sums_do_not_depend_on_its_neighbours_or_padding(targets: list[str]) -> None:
    model, criterion = toy_model(), toy_criterion(targets=targets)
    sample = toy_batch([20, 11, 1, 16])
    with torch.no_grad():
        _, size, together = criterion(model, sample)
        alone = [criterion(model, rows_of(sample, row)) for row in range(4)]
    for key in together:
        if key.startswith("[") and key.endswith(("_loss", "_correct", "_count", "ntokens")):
            assert float(together[key]) == pytest.approx(sum(float(logs[key]) for _, _, logs in alone), rel=1e-5), key
    assert size == sum(part[1] for part in alone)


def test_a_block_of_one_frame_has_a_finite_loss_and_gradient() -> None:
    model = toy_model().train()
    loss, _, logs = toy_criterion()(model, toy_batch([1]))
    loss.backward()
    assert math.isfinite(loss.item()) and logs["edge_duration_count"] == 0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("sentence_avg", [False, True])
@pytest.mark.parametrize("targets", [["next"], ["edge", "duration"], TARGETS])
def test_logged_figures_do_not_depend_on_how_batches_were_cut(targets: list[str], sentence_avg: bool) -> None:
    model, criterion = toy_model(), toy_criterion(targets=targets, sentence_avg=sentence_avg)
    sample = toy_batch([20, 11, 1, 16])
    figures = []
    for cuts in ([[0, 1, 2, 3]], [[0], [1], [2], [3]]):
        with metrics.aggregate(new_root=True) as log, torch.no_grad():
            for rows in cuts:
                part = sample if len(rows) == 4 else rows_of(sample, rows[0])
                SpeechDLMCriterion.reduce_metrics([criterion(model, part)[2]])
        figures.append(log.get_smoothed_values())
    assert figures[0].keys() == figures[1].keys()
    assert figures[0] == pytest.approx(figures[1], abs=2e-3, rel=1e-3)


def test_logged_figures_are_means_in_bits_and_frames() -> None:
    model, criterion = toy_model(), toy_criterion(targets=["edge", "duration"])
    with torch.no_grad(), metrics.aggregate(new_root=True) as log:
        _, _, sums = criterion(model, toy_batch([20, 11]))
        SpeechDLMCriterion.reduce_metrics([sums])
    figures = log.get_smoothed_values()
    nats = float(sums["[unitA-unitA]edge_token_loss"] + sums["[unitB-unitB]edge_token_loss"])
    bits = nats / sums["edge_token_count"] / math.log(2)
    assert figures["edge_token_loss"] == pytest.approx(bits, abs=1e-3)
    assert figures["edge_token_ppl"] == figures["ppl"] == pytest.approx(2**bits, rel=1e-2)
    frames = float(sums["[unitA-unitA]edge_duration_loss"] / sums["[unitA-unitA]edge_duration_count"])
    assert figures["[unitA-unitA]edge_duration_loss"] == pytest.approx(frames, abs=1e-3)
    assert figures["loss"] == pytest.approx(float(sums["loss"]) / sums["sample_size"] / math.log(2), rel=1e-3)


def test_every_target_is_logged_for_all_channels_and_each_pair() -> None:
    model, criterion = toy_model(main_and_cross_weights="0.6,0.4"), toy_criterion(main_and_cross_weights="0.6,0.4")
    sample = toy_batch([20, 11])
    with torch.no_grad(), metrics.aggregate(new_root=True) as log:
        SpeechDLMCriterion.reduce_metrics([criterion(model, sample)[2]])
        heads = model(sample["net_input"]["src_tokens"])[0]
    figures = log.get_smoothed_values()
    kinds = {"general_token": ("loss", "ppl", "pred_acc"), "edge_token": ("loss", "ppl", "pred_acc")}
    kinds["edge_duration"] = ("loss", "pred_acc")
    pairs = [f"[unit{a}-unit{b}]" for a in "AB" for b in "AB"]
    expected = {f"{p}{name}_{k}" for p in ["", *pairs] for name, ks in kinds.items() for k in ks}
    assert figures.keys() == expected | {"loss", "ppl"}
    nats = -heads[1].units[:, :, 1].log_softmax(-1).gather(2, sample["target"][..., 1:]).squeeze(2)
    bits = float(nats[sample["target"][..., 1] != 1].mean()) / math.log(2)  # what channel A says of channel B
    assert figures["[unitA-unitB]general_token_loss"] == pytest.approx(bits, abs=1e-3)
    assert figures["ppl"] == figures["general_token_ppl"] == pytest.approx(2 ** figures["general_token_loss"], rel=1e-2)


def test_channels_of_any_name_are_told_from_pairs() -> None:
    with metrics.aggregate(new_root=True) as log:
        pairs = {"[km-A-km-A]": 8.0, "[km-A-B]": 1000.0, "[B-B]": 16.0}
        sums = {f"{p}{k}": v for p, loss in pairs.items() for k, v in (("ntokens", 4), ("edge_token_loss", loss))}
        sums |= {f"{p}edge_token_{k}": v for p in pairs for k, v in (("correct", 1), ("count", 4))}
        SpeechDLMCriterion.reduce_metrics([sums])
    assert log.get_smoothed_values()["edge_token_loss"] == pytest.approx((8 + 16) / 8 / math.log(2), abs=1e-3)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("channels", [2, 3])
def test_a_training_step_waits_for_the_device_once(channels: int, checkpointed: bool) -> None:
    weights = "0.6,0.4"
    model = toy_model(channels, dropout=0.1, main_and_cross_weights=weights, checkpoint_activations=checkpointed)
    criterion = toy_criterion(channels, main_and_cross_weights=weights)
    (sample,) = share_counts([toy_batch([20, 11], channels)], channels)
    model.train()
    with counted_syncs() as found, metrics.aggregate(new_root=True):
        loss, _, logs = criterion(model, sample)
        loss.backward()
        assert not found
        SpeechDLMCriterion.reduce_metrics([logs, logs])
    assert found == {"tolist": 1}


def test_a_target_without_weight_is_refused() -> None:
    with pytest.raises(InputError, match="--general-unit-loss-weight 0"):
        toy_criterion(targets=["next"], general_unit_loss_weight=0.0)
