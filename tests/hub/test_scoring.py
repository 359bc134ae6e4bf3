"""Scores of given dialogues: the criterion's figures, and what decoding says of the same units."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.data.unit_stream import UnitStream, find_binarized
from speechdlm_ext.errors import InputError
from speechdlm_ext.hub import DialogueModel, load_speech_dlm
from tests.helpers.dialogue_checkpoints import CRITERION, toy_lines, write_checkpoint
from tests.helpers.published import load, read_json

LENGTHS = [20, 9, 70, 1, 31]
LOSSES = ("general_token", "edge_token", "edge_duration")


def criterion_sums(model: DialogueModel, break_mode: str) -> dict[str, float]:
    """Sums that the criterion logs over all blocks of the validation set, several blocks a batch."""
    from omegaconf import OmegaConf

    task = model.task
    task.cfg.sample_break_mode = break_mode
    task.load_dataset("valid")
    data = task.dataset("valid")
    criterion = task.build_criterion(OmegaConf.create(CRITERION)).eval()
    sums: dict[str, float] = {}
    for start in range(0, len(data), 2):
        sample = data.collater([data[i] for i in range(start, min(start + 2, len(data)))])
        with torch.no_grad():
            logs = criterion(model.models[0], sample)[2]
        for key, value in logs.items():
            sums[key] = sums.get(key, 0.0) + float(value)
    return sums


def assert_agrees(scores: list[Any], sums: dict[str, float]) -> None:
    """Bits (or frames) times counts, summed over dialogues, are the criterion's sums."""
    for c, channel in enumerate(scores[0].channels):
        found = dict.fromkeys(LOSSES, 0.0)
        counts = dict.fromkeys(LOSSES, 0)
        for score in scores:
            frames, edges = len(score.log_probabilities), int(score.edges[:, c].sum())
            known = int(score.duration_errors[:, c].isfinite().sum())
            found["general_token"] += float(score.bits_per_unit[c]) * frames * math.log(2)
            found["edge_token"] += float(score.bits_per_edge[c]) * edges * math.log(2)
            found["edge_duration"] += float(score.duration_error[c]) * known if known else 0.0
            for loss, count in zip(LOSSES, (frames, edges, known), strict=True):
                counts[loss] += count
        for loss in LOSSES:
            assert counts[loss] == sums[f"[{channel}-{channel}]{loss}_count"], loss
            assert found[loss] == pytest.approx(sums[f"[{channel}-{channel}]{loss}_loss"], rel=1e-5), loss


@pytest.mark.parametrize("delayed", ["True", "False"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_scores_are_the_criterions(tmp_path: Path, channels: int, delayed: str) -> None:
    lines = toy_lines(channels, LENGTHS)
    options = {"tokens_per_sample": 32, "delayed_duration_target": delayed, "task": {"max_target_durations": 4}}
    model = load_speech_dlm(write_checkpoint(tmp_path, channels=channels, lines=lines, **options))
    # Every line a dialogue; those within the window are one block, as with --sample-break-mode eos.
    short = [line for line in lines if len(line) < 32]
    texts = [model.decode(line) for line in short]
    scores = model.score(texts, ending=True)
    write_checkpoint(tmp_path, channels=channels, lines=short, **options)
    assert_agrees(scores, criterion_sums(model, "eos"))
    # All lines after one another, cut into blocks wherever the window ends, as with none.
    write_checkpoint(tmp_path, channels=channels, lines=lines, **options)
    end = torch.full((1, channels), 2)
    stream = torch.cat([torch.cat([line, end]) for line in lines])
    assert len(stream) > 4 * 32
    assert_agrees([model.score(stream)], criterion_sums(model, "none"))


def test_without_duration_prediction_there_are_no_durations_said(tmp_path: Path) -> None:
    lines = toy_lines(2, [20])
    model = load_speech_dlm(write_checkpoint(tmp_path, duration_prediction="False", lines=lines))
    score = model.score(lines[0])
    assert score.predicted_durations.isnan().all() and score.duration_error.isnan().all()
    sums = criterion_sums(model, "eos")
    ended = model.score(lines[0], ending=True)
    assert float(ended.edge_log_likelihood[1]) == pytest.approx(-sums["[unitB-unitB]edge_token_loss"], rel=1e-5)


def test_edges_are_listed_with_their_frames(toy: Path) -> None:
    model = load_speech_dlm(toy)
    score = model.score({"unitA": "7 7 7 8 9 9", "unitB": "1 2 2 2 2 2"})
    frames = [0, 3, 4]
    assert score.edges[:, 0].nonzero().squeeze(1).tolist() == frames
    assert score.durations[frames, 0].tolist() == [3, 1, 2]
    said = model.models[0](torch.tensor([[[2, 2], [11, 5], [11, 6], [11, 6], [12, 6], [13, 6]]]))[0][0].durations
    predicted = score.predicted_durations[frames, 0]
    torch.testing.assert_close(predicted, said[0, [1, 4, 5], 0].detach())
    torch.testing.assert_close(score.duration_errors[frames, 0], (predicted - score.durations[frames, 0]).abs())
    assert score.edges[:, 1].nonzero().squeeze(1).tolist() == [0, 1]
    assert score.total == pytest.approx(float(score.log_probabilities.sum()), rel=1e-6)


def test_decoding_and_scoring_say_the_same_of_the_same_units(toy: Path) -> None:
    from speechdlm_ext.generation.options import DecodingOptions

    model = load_speech_dlm(toy)
    ((best, *_),) = model.generate([toy_lines(2, [5])[0]], DecodingOptions(sampling=True, max_len_b=40, beam=2), [3])
    score = model.score(best.units, ending=True)
    torch.testing.assert_close(score.log_probabilities, best.positional_scores, atol=1e-4, rtol=1e-5)


def test_an_ensembles_probabilities_are_averaged(toy: Path) -> None:
    models = [load_speech_dlm(toy, name) for name in ("model.pt", "other.pt")]
    ensemble = load_speech_dlm(toy, "model.pt:other.pt")
    units = toy_lines(2, [25])[0]
    one, two = (model.score(units) for model in models)
    both = ensemble.score(units)
    mean = (one.log_probabilities.exp() + two.log_probabilities.exp()) / 2
    torch.testing.assert_close(both.log_probabilities, mean.log(), atol=1e-5, rtol=1e-5)
    said = (one.predicted_durations + two.predicted_durations) / 2
    torch.testing.assert_close(both.predicted_durations, said, equal_nan=True)


def test_a_score_does_not_depend_on_the_other_dialogues(toy: Path) -> None:
    model = load_speech_dlm(toy)
    lines = toy_lines(2, [3, 150, 20, 64, 65, 1])  # blocks have 64 frames
    for together, line in zip(model.score(lines), lines, strict=True):
        alone = model.score(line)
        torch.testing.assert_close(together.log_probabilities, alone.log_probabilities, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            together.predicted_durations, alone.predicted_durations, equal_nan=True, atol=1e-5, rtol=1e-5
        )
        assert together.log_probabilities.shape == line.shape


def test_a_given_channel_is_seen_as_far_as_the_frame_before(toy: Path) -> None:
    model = load_speech_dlm(toy)
    units = toy_lines(2, [30])[0]
    whole, given = model.score(units), model.score(units, condition_on="unitA")
    assert given.channels == ("unitB",) and given.log_probabilities.shape == (30, 1)
    assert torch.equal(given.log_probabilities[:, 0], whole.log_probabilities[:, 1])
    assert given.total == pytest.approx(float(whole.log_likelihood[1]))
    changed = units.clone()
    changed[12, 0] = 4 + (int(units[12, 0]) - 4 + 7) % 20
    other = model.score(changed, condition_on="unitA")
    assert torch.equal(other.log_probabilities[:13], given.log_probabilities[:13])
    assert float((other.log_probabilities[13] - given.log_probabilities[13]).abs()) > 1e-4
    with pytest.raises(InputError, match=r"condition_on unitX: no such channel.*unitA, unitB"):
        model.score(units, condition_on="unitX")


def test_scores_come_in_the_form_of_the_input(toy: Path) -> None:
    model = load_speech_dlm(toy)
    units = toy_lines(2, [12])[0]
    text = model.decode(units)
    one = model.score(units)
    found = [model.score(text), model.score([text])[0], model.score([units])[0], model.score(units[None])[0]]
    assert all(torch.equal(score.log_probabilities, one.log_probabilities) for score in found)


@pytest.mark.parametrize(
    ("dialogue", "message"),
    [
        ({"unitA": "7 <pad>", "unitB": "7 7"}, "unit <pad> of unitA is not in dict.unitA.txt"),
        ({"unitA": "7 400", "unitB": "7 7"}, "unit 400 of unitA"),
        ({"unitA": "7 7"}, "dialogue 1: channel unitB is missing"),
        ({"unitA": "", "unitB": ""}, "dialogue 1: there are no units in it"),
        (torch.tensor([[5, 1]]), r"dialogue 1: id 1 in unitB is no unit of dict\.unitB\.txt"),
    ],
)
def test_what_cannot_be_scored(toy: Path, dialogue: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_speech_dlm(toy).score(dialogue)


def test_broken_weights_have_no_score(toy: Path) -> None:
    model = load_speech_dlm(toy)
    with torch.no_grad():
        model.models[0].decoder.output_duration_prediction[0].bias.fill_(math.nan)
    with pytest.raises(InputError, match="not a number"):
        model.score({"unitA": "7 7", "unitB": "7 7"})


def test_the_published_validation_figures(reference: Path) -> None:
    """All blocks of the reference data at once, against what the public code said of them one by one."""
    model, task, _ = load(reference, "A")
    streams = [UnitStream(find_binarized(str(reference / "bin"), "valid", c)) for c in task.channels]
    units = torch.stack([torch.from_numpy(stream.read(0, len(stream))) for stream in streams], 1)
    score = DialogueModel([model], task).score(units)
    published = read_json(reference / "A" / "criterion_valid.json")["blocks_per_batch_1"]
    sums = published["summed_logging_output"]
    for c, channel in enumerate(score.channels):
        pair = f"[{channel}-{channel}]"
        assert int(score.edges[:, c].sum()) == sums[f"{pair}edge_token_count"]
        assert float(score.edge_log_likelihood[c]) == pytest.approx(-sums[f"{pair}edge_token_loss"], rel=1e-5)
        errors = score.duration_errors[:, c].double()
        assert int(errors.isfinite().sum()) == sums[f"{pair}edge_duration_count"]
        assert float(errors.nansum()) == pytest.approx(sums[f"{pair}edge_duration_loss"], rel=1e-5)
