"""Checkpoints that load, those of the first release among them, and those that are refused in one line."""

from __future__ import annotations

import math
import os
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils

from speechdlm_ext.checkpoints.speech_dlm_release import upgrade_options
from speechdlm_ext.errors import InputError
from speechdlm_ext.hub import load_speech_dlm
from speechdlm_ext.models.speech_dlm import SpeechDLM
from tests.helpers.dialogue_checkpoints import toy_lines, write_checkpoint
from tests.helpers.hostile import payloads

# The options of the criterion in the released speech_dlm_base.pt (facebookresearch/fairseq#5041), to the letter.
LEGACY = {
    "_name": "duration_cross_multichannel_cross_entropy",
    "sentence_avg": False,
    "main_and_cross_weights": "1,0",
    "include_edge_loss": True,
    "edge_loss_weight": 1.0,
    "general_loss_weight": 0.0,
    "normalize_edge_loss": True,
    "duration_loss_weight": 1.0,
    "shift_duration_target": True,
    "round_duration_prediction": False,
    "normalize_duration_loss": False,
}
TODAY = {
    "_name": "speech_dlm_criterion",
    "sentence_avg": False,
    "main_and_cross_weights": "1,0",
    "general_unit_loss_weight": 0.0,
    "edge_unit_loss_weight": 1.0,
    "duration_loss_weight": 1.0,
}
EDGES = {"next_unit_prediction": "False"}


# --- the first release -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``speech_dlm_base.pt`` in the shape of the first release, and the same weights as today.pt."""
    folder = tmp_path_factory.mktemp("released")
    write_checkpoint(folder, "today.pt", task=EDGES, criterion=TODAY)
    lines = toy_lines(2, [40, 64, 7, 33])
    return write_checkpoint(folder, "speech_dlm_base.pt", task=EDGES, criterion=LEGACY, lines=lines)


def test_the_released_checkpoint_loads_samples_and_scores(released: Path) -> None:
    legacy, today = (
        SpeechDLM.from_pretrained(str(released), name, str(released)) for name in ("speech_dlm_base.pt", "today.pt")
    )
    prompt = {"unitA": "7 7 8", "unitB": "1 2 2"}
    options: dict[str, Any] = {"sampling": True, "beam": 5, "max_len_b": 30}
    assert legacy.sample([prompt], **options) == today.sample([prompt], **options)
    assert torch.equal(legacy.score(prompt).log_probabilities, today.score(prompt).log_probabilities)
    assert legacy.task.targets == ["edge", "duration"] and legacy.task.delayed_duration_target


def test_the_released_checkpoint_validates(released: Path, run_loaded: Any, checkout: Path) -> None:
    arguments = [released, "--user-dir", checkout / "speechdlm_ext", "--task", "speech_dlm_task", "--cpu"]
    path = ["--path", released / "speech_dlm_base.pt", "--max-tokens", "128", "--log-format", "json"]
    done = run_loaded(["fairseq-validate", *arguments, *path])
    output = done.stdout + done.stderr
    model = load_speech_dlm(released, "today.pt")
    stream = torch.cat([torch.cat([line, torch.full((1, 2), 2)]) for line in toy_lines(2, [40, 64, 7, 33])])
    score = model.score(stream)
    edges = score.edges.sum(0)
    bits = float((score.bits_per_edge * edges).sum() / edges.sum())
    assert float(re.findall(r'"valid_edge_token_loss": "([^"]+)"', output)[-1]) == pytest.approx(bits, abs=2e-3)
    frames = float(score.duration_errors.nanmean())
    assert float(re.findall(r'"valid_edge_duration_loss": "([^"]+)"', output)[-1]) == pytest.approx(frames, abs=2e-3)


def test_old_fields_become_todays(released: Path) -> None:
    cfg = checkpoint_utils.load_checkpoint_to_cpu(str(released / "speech_dlm_base.pt"))["cfg"]
    assert dict(cfg.criterion) == TODAY


def test_weights_and_targets_of_old_fields_are_taken_over(tmp_path: Path) -> None:
    old = {**LEGACY, "edge_loss_weight": 0.5, "general_loss_weight": 2.0, "duration_loss_weight": 3.0}
    old.update(include_edge_loss=False, shift_duration_target=False)

    def without_todays_options(state: dict[str, Any]) -> None:
        for name in ("edge_unit_prediction", "delayed_duration_target"):
            del state["cfg"]["task"][name]
        del state["cfg"]["model"]["delayed_duration_target"]

    write_checkpoint(tmp_path, criterion=old, change=without_todays_options)
    cfg = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "model.pt"))["cfg"]
    names = ("edge_unit_loss_weight", "general_unit_loss_weight", "duration_loss_weight")
    assert [cfg.criterion[name] for name in names] == [0.5, 2.0, 3.0]
    model = load_speech_dlm(tmp_path)
    assert model.task.targets == ["next", "duration"] and not model.task.delayed_duration_target
    assert not model.models[0].decoder.delayed_durations


def test_todays_options_of_the_task_win(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, criterion={**LEGACY, "shift_duration_target": False}, task=EDGES)
    assert load_speech_dlm(tmp_path).task.delayed_duration_target


def test_options_as_a_namespace_are_taken_over_too() -> None:
    old = {name: value for name, value in LEGACY.items() if name != "_name"}
    options = Namespace(task="speech_dlm_task", criterion=LEGACY["_name"], dropout=0.1, **old)
    upgrade_options({"args": options})
    today = {name: value for name, value in TODAY.items() if name != "_name"}
    assert vars(options) == {
        **{"task": "speech_dlm_task", "criterion": "speech_dlm_criterion", "dropout": 0.1},
        **{"edge_unit_prediction": "True", "delayed_duration_target": "True", **today},
    }
    others = Namespace(criterion="cross_entropy", duration_loss_weight=1.0)
    upgrade_options({"args": others})
    assert vars(others) == {"criterion": "cross_entropy", "duration_loss_weight": 1.0}


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        load_speech_dlm(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_files_are_named(toy: Path, tmp_path: Path) -> None:
    assert refused(tmp_path).startswith(f"{tmp_path}/model.pt: no such checkpoint, nor are config.json and model.safe")
    assert refused(toy, "model.pt:third.pt").startswith(f"{toy}/third.pt: no such checkpoint")
    assert refused(toy, "model.pt", tmp_path).startswith(f"{tmp_path}/dict.unitA.txt: no such file")


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    def language_model(state: dict[str, Any]) -> None:
        state["cfg"]["task"] = {"_name": "language_modeling", "data": "x"}
        state["cfg"]["model"] = {"_name": "transformer_lm"}

    write_checkpoint(tmp_path, change=language_model)
    said = refused(tmp_path)
    expected = "speech_dlm of speech_dlm_task is expected"
    assert said == f"{tmp_path}/model.pt: a model transformer_lm of task language_modeling, {expected}"
    torch.save({"a": torch.ones(2)}, tmp_path / "model.pt")
    assert refused(tmp_path) == f"{tmp_path}/model.pt: not a checkpoint of fairseq-train"
    torch.save([1, 2], tmp_path / "model.pt")
    assert refused(tmp_path) == f"{tmp_path}/model.pt: not a checkpoint of fairseq-train"


def test_a_checkpoint_of_the_task_with_another_model_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, change=lambda state: state["cfg"]["model"].update(_name="transformer_lm"))
    assert "a model transformer_lm of task speech_dlm_task" in refused(tmp_path)


def test_a_dictionary_that_disagrees_with_the_checkpoint_is_refused(toy: Path, tmp_path: Path) -> None:
    for channel in "AB":
        (tmp_path / f"dict.unit{channel}.txt").write_text("7 1\n8 1\n")
    said = refused(toy, "model.pt", str(tmp_path))
    assert "knows 24 units and symbols, the dictionaries that were read 6: the dict.<channel>.txt of its" in said


def test_weights_that_the_options_do_not_describe_are_refused(toy: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, change=lambda state: state["model"].pop("decoder.layers.0.fc1.bias"))
    assert "has no weights decoder.layers.0.fc1.bias" in refused(tmp_path)
    write_checkpoint(tmp_path, change=lambda state: state["model"].update(extra=torch.ones(1)))
    assert "has weights extra, which this model has not" in refused(tmp_path)
    assert "decoder.layers.0.fc1.weight is 32 × 16, 48 × 16 is expected" in refused(toy, decoder_ffn_embed_dim=48)
    assert refused(toy, decoder_cross_layers=4).startswith("--decoder-cross-layers 4: the model has 3 layers")


def test_options_of_the_task_that_make_no_sense_are_refused(toy: Path) -> None:
    assert refused(toy, max_target_durations=0).startswith("--max-target-durations 0: 1 frame or more is expected")
    assert refused(toy, channels="unitA,unitB,unitC").startswith(f"{toy}/dict.unitC.txt: no such file")
    assert refused(toy, channels="unitA,unitA").startswith("--channels unitA,unitA: different names are expected")
    assert refused(toy, channel_weights="1,0.5,2").startswith("--channel-weights 1,0.5,2: 3 weights for 2 channels")
    assert refused(toy, channels="unitA").startswith("--decoder-cross-layers 2 needs two channels or more")
    assert refused(toy, delayed_duration_target="maybe").startswith("--delayed-duration-target maybe")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_numbers_are_refused(tmp_path: Path, value: float) -> None:
    def spoil(state: dict[str, Any]) -> None:
        state["model"]["decoder.output_duration_prediction.0.weight"][0, 3] = value

    write_checkpoint(tmp_path, change=spoil)
    said = refused(tmp_path)
    assert said.startswith(
        f"{tmp_path}/model.pt: weights decoder.output_duration_prediction.0.weight have values that are not numbers"
    )


def test_a_truncated_checkpoint_is_refused(toy: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[: len(whole) // 2])
    assert "not a whole checkpoint" in refused(tmp_path)


def test_models_that_disagree_make_no_ensemble(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "a.pt")
    write_checkpoint(tmp_path, "b.pt", delayed_duration_target="False")
    ensemble = load_speech_dlm(tmp_path, "a.pt:b.pt")
    for use in (ensemble.sample, ensemble.score):
        with pytest.raises(InputError, match=r"models of an ensemble must agree in --delayed-duration-target"):
            use({"unitA": "7", "unitB": "7"})


# --- trust -----------------------------------------------------------------------------------------------------------


@pytest.mark.commands
def test_code_in_a_checkpoint_runs_only_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "marker"
    write_checkpoint(tmp_path, change=lambda state: state.update(hidden=payloads(marker)["os.system"]))
    for trust, environment in ((None, ""), (False, "1")):
        monkeypatch.setenv("SPEECHDLM_TRUST_CHECKPOINTS", environment)
        with pytest.raises(InputError, match=f"{tmp_path}/model.pt: refused, because loading it would use {os.name}"):
            SpeechDLM.from_pretrained(tmp_path, trust=trust)
        assert not marker.exists()
    monkeypatch.delenv("SPEECHDLM_TRUST_CHECKPOINTS")
    assert SpeechDLM.from_pretrained(tmp_path, trust=True).channels == ["unitA", "unitB"]
    assert marker.exists()


def test_paths_and_colons(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = toy_lines(2, [9])[0]
    whole = load_speech_dlm(toy).score(units).log_probabilities
    monkeypatch.chdir(toy.parent)
    for arguments in ((toy / "model.pt",), (str(toy), "model.pt", "."), (toy.name, "model.pt", toy.name)):
        assert torch.equal(load_speech_dlm(*arguments).score(units).log_probabilities, whole)


def test_fairseqs_own_models_are_refused_by_the_task(toy: Path) -> None:
    """What fairseq-generate meets in a checkpoint of another model."""
    task = load_speech_dlm(toy).task
    with pytest.raises(InputError, match=r"a model transformer_lm, expected speech_dlm: .* has 2 channels"):
        task.build_model(Namespace(_name="transformer_lm"), from_checkpoint=True)


def test_validation_sees_every_block_once_however_it_is_cut_up(toy: Path) -> None:
    task = load_speech_dlm(toy).task
    task.cfg.tokens_per_sample = 8
    task.load_dataset("valid")
    data = task.dataset("valid")
    for max_tokens, shards in ((8, 1), (24, 1), (16, 3)):
        seen = []
        for shard in range(shards):
            options = {"max_tokens": max_tokens, "num_shards": shards, "shard_id": shard}
            epoch = task.get_batch_iterator(data, seed=shard, disable_iterator_cache=True, **options)
            batches = epoch.next_epoch_itr(shuffle=False)
            seen += [int(i) for batch in batches if batch for i in batch["id"]]
        assert sorted(seen) == list(range(len(data))), (max_tokens, shards)
