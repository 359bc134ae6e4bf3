"""Unit language models from Python: each form loads, scores are sums of logs, batches change nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary

from speechdlm_ext.errors import InputError
from speechdlm_ext.hub import UnitModel
from speechdlm_ext.models.unit_lm import UnitLM
from speechdlm_ext.models.unit_lstm import UnitLSTM
from tests.helpers.unit_checkpoints import utterances, write_corpus, write_unit_checkpoint
from tests.helpers.unit_models import likelihood, toy_unit_lm, toy_unit_lstm

LENGTHS = [30, 7, 12, 1, 22, 7, 64, 3]
BUILDERS = [toy_unit_lm, toy_unit_lstm]


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("ending", [False, True])
def test_batches_of_mixed_lengths_score_as_one_at_a_time(build: Any, ending: bool) -> None:
    model = build().eval()
    hub = UnitModel([model])
    lines = utterances(LENGTHS)
    together = hub.score(lines, ending=ending)
    few = hub.score(lines, ending=ending, batch_units=20)
    for line, score, other in zip(lines, together, few, strict=True):
        alone = hub.score(torch.tensor(line), ending=ending)
        assert score.total == pytest.approx(alone.total, abs=1e-5)
        assert score.total == pytest.approx(other.total, abs=1e-5)
        assert score.total == pytest.approx(likelihood(model, line, ending), rel=1e-5, abs=1e-4)
        assert len(score.log_probabilities) == len(line) + ending
        assert score.bits_per_unit == pytest.approx(-score.total / (len(line) + ending) / math.log(2))
    as_text = hub.score(" ".join(map(str, lines[0])), ending=ending)
    assert as_text.total == pytest.approx(together[0].total, abs=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 2e-5), (torch.bfloat16, 0.25)])
def test_many_sequences_score_as_by_the_layers_themselves(dtype: torch.dtype, tolerance: float) -> None:
    """Grouped heads, and heads wider than the embedding's share."""
    model = toy_unit_lm(decoder_attention_heads=4, decoder_kv_heads=2, decoder_head_dim=6).eval().to(dtype)
    lines = utterances([1 + number % 37 for number in range(250)])
    scores = UnitModel([model]).score(lines, batch_units=500)
    for line, score in list(zip(lines, scores, strict=True))[::20]:
        with torch.no_grad():
            logits = model(torch.tensor([[0, *(unit + 1 for unit in line[:-1])]]))[0][0]
        expected = logits.double().log_softmax(-1)[range(len(line)), [unit + 1 for unit in line]]
        assert torch.allclose(score.log_probabilities.double(), expected, atol=tolerance)


def test_an_ensembles_probabilities_are_the_mean() -> None:
    models = [build().eval() for build in BUILDERS]
    hub = UnitModel(models)
    (line,) = utterances([6])
    each = torch.stack([UnitModel([model]).score(line).log_probabilities for model in models])
    expected = each.exp().mean(0).log()
    torch.testing.assert_close(hub.score(line).log_probabilities, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="20 and 25 units"):
        UnitModel([toy_unit_lm(20), toy_unit_lm(25)])


@pytest.mark.parametrize(
    ("build", "options"), [(toy_unit_lm, {"durations": True}), (toy_unit_lm, {}), (toy_unit_lstm, {})]
)
def test_saved_folders_load_what_was_saved(build: Any, options: dict, tmp_path: Path) -> None:
    hub = UnitModel([build(**options)], frame_rate=40.0)
    hub.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "config.json",
        "dict.txt",
        "model.safetensors",
    ]
    again = UnitLM.from_pretrained(tmp_path / "saved")
    assert again.frame_rate == 40.0 and again.units == 20
    for name, tensor in hub.models[0].state_dict().items():
        assert torch.equal(again.models[0].state_dict()[name], tensor)
    line = utterances([9])[0]
    assert again.score(line).total == hub.score(line).total
    assert again.sample(line, max_len_b=20, sampling=True) == hub.sample(line, max_len_b=20, sampling=True)
    symbols = Dictionary.load(str(tmp_path / "saved" / "dict.txt")).symbols[4:]
    assert symbols == [str(unit) for unit in range(20)]
    with pytest.raises(InputError, match="is there already"):
        hub.save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(units=19), "codebook of 20 units, 19"),
        (lambda c: c.update(units="20"), "units is str"),
        (lambda c: c["model"].pop("decoder_layers"), "model.decoder_layers is missing"),
        (lambda c: c["model"].update(decoder_layers="two"), "config.json: .*two"),
        (lambda c: c.update(model_type="bert"), "model_type is bert"),
        (lambda c: c.update(model_type="unit_lstm"), "is not known|is missing"),
    ],
)
def test_folders_that_contradict_themselves_are_one_line(change: Any, message: str, tmp_path: Path) -> None:
    from speechdlm_ext.hub import load_unit_lm

    UnitModel([toy_unit_lm()]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message) as error:
        load_unit_lm(tmp_path)
    assert "\n" not in str(error.value)


def test_checkpoints_of_fairseq_load_with_and_without_their_data(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data", utterances([5]))
    model = toy_unit_lm(durations=True)
    path = write_unit_checkpoint(tmp_path / "model.pt", model, frame_rate=40.0)
    write_unit_checkpoint(tmp_path / "other.pt", toy_unit_lstm())
    line = utterances([9])[0]
    for given in ((path,), (tmp_path,), (tmp_path, "model.pt", tmp_path / "data")):
        hub = UnitLM.from_pretrained(*given)
        assert hub.frame_rate == 40.0
        assert hub.score(line).total == pytest.approx(likelihood(model.eval(), line), rel=1e-5)
    both = UnitLSTM.from_pretrained(tmp_path, "model.pt:other.pt")
    assert len(both.models) == 2
    small = write_unit_checkpoint(tmp_path / "small.pt", toy_unit_lm(10))
    with pytest.raises(InputError, match="units up to 19, the model knows 0 to 9"):
        UnitLM.from_pretrained(small, data_name_or_path=tmp_path / "data")
    with pytest.raises(InputError, match="no such file"):
        UnitLM.from_pretrained(tmp_path / "nothing.pt")


def test_published_forms_load(tmp_path: Path) -> None:
    from tests.helpers.unit_checkpoints import amela_folder, amela_likelihood, dpslm_file

    state = dpslm_file(tmp_path / "published.pt")
    line = utterances([9])[0]
    hub = UnitLM.from_pretrained(tmp_path / "published.pt")
    ours = toy_unit_lm(20, decoder_attention_heads=4, decoder_kv_heads=2, decoder_head_dim=6).eval()
    ours.load_state_dict({f"decoder.{name}": tensor for name, tensor in state["model_state_dict"].items()})
    assert hub.score(line).total == pytest.approx(likelihood(ours, line), rel=1e-5)
    weights = amela_folder(tmp_path / "amela")
    hub = UnitLSTM.from_pretrained(tmp_path / "amela")
    assert hub.units == 30
    assert hub.score(line).total == pytest.approx(amela_likelihood(weights, line, 30), rel=1e-5)


@pytest.mark.commands
def test_samples_have_the_form_of_their_prompts() -> None:
    hub = UnitModel([toy_unit_lm(durations=True)], frame_rate=50.0)
    options: dict[str, Any] = {"sampling": True, "max_len_b": 15, "stop_at_end": False, "seed": 3}
    text = hub.sample("1 2 3", **options)
    numbers = hub.sample([1, 2, 3], **options)
    tensor = hub.sample(torch.tensor([1, 2, 3]), **options)
    assert text == " ".join(map(str, numbers)) and tensor.tolist() == numbers and len(numbers) == 15
    assert hub.sample(["1 2 3", "4"], **options)[0] == text
    new = hub.sample("", **options)
    assert len(new.split()) == 15
    found = hub.sample("1 2 3", details=True, sampling=True, max_seconds=0.4, stop_at_end=False)
    assert int(found.durations.sum()) == 20 and len(found.units) == len(found.durations) and not found.ended
    (ended,) = [s for s in hub.sample(["1 2 3"] * 9, details=True, sampling=True, max_len_b=300) if s.ended][:1]
    assert len(ended.units) < 300


@pytest.mark.parametrize("build", BUILDERS)
def test_half_precision_samples_what_it_scores(build: Any) -> None:
    hub, precise = UnitModel([build()]), UnitModel([build()])
    hub.to(dtype=torch.bfloat16)
    (found,) = hub.sample([list(np.array([1, 2, 3]))], details=True, sampling=True, max_len_b=20, stop_at_end=False)
    for model, near in ((hub, 0.05), (precise, 0.1)):
        score = model.score(found.units, ending=True)
        assert score.per_unit == pytest.approx(found.score, rel=near)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda hub: hub.score("1 2 x"), "sequence 1: x is no unit"),
        (lambda hub: hub.score([[1], [20]]), "sequence 2: 20 is no unit"),
        (lambda hub: hub.score([[1], []]), "sequence 2: there are no units"),
        (lambda hub: hub.score({"unitA": "1 2"}), "sequence 1: dict"),
        (lambda hub: hub.score([["1", "2"]]), "sequence 1: list"),
        (lambda hub: hub.sample(torch.rand(3)), "float32"),
        (lambda hub: hub.sample("1", temprature=2.0), "temprature: no option"),
        (lambda hub: hub.sample(["1", "2"], seed=[1]), "1 numbers for 2 sequences"),
        (lambda hub: hub.sample("1", max_seconds=1.0), "--frame-rate"),
        (lambda hub: hub.sample("1 2 3", max_len_b=2), "the prompt has 3 frames"),
    ],
)
def test_bad_input_is_one_line(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(UnitModel([toy_unit_lm()]))
