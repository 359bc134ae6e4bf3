"""Saved models: bit-equal when read back, without a pickle, and whole or not there."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.hub import DialogueModel, load_speech_dlm
from speechdlm_ext.models.speech_dlm import SpeechDLM
from tests.helpers.dialogue_checkpoints import toy_lines, write_checkpoint

FILES = ["config.json", "dict.unitA.txt", "dict.unitB.txt", "model.safetensors"]


@pytest.fixture(scope="module")
def saved(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    load_speech_dlm(toy).save_pretrained(folder)
    return folder


def forbid_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("a pickle was opened")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, refuse)


def same_weights(one: DialogueModel, other: DialogueModel) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.mark.commands
@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (2, {"share_decoder_input_output_embed": True, "tokens_per_sample": 48}),
        (1, {"decoder_learned_pos": True, "duration_prediction": "False"}),
        (3, {"main_and_cross_weights": "0.5,0.5", "delayed_duration_target": "False", "checkpoint_activations": True}),
    ],
)
def test_what_is_read_back_is_what_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, options: dict[str, Any]
) -> None:
    model = load_speech_dlm(write_checkpoint(tmp_path / "trained", channels=channels, **options))
    model.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "trained")  # no other folder is needed
    monkeypatch.chdir(tmp_path)
    forbid_pickles(monkeypatch)
    again = SpeechDLM.from_pretrained(tmp_path / "saved")
    assert same_weights(model, again) and again.channels == model.channels and not again.training
    assert [d.symbols for d in again.task.dictionary.dictionaries] == [
        d.symbols for d in model.task.dictionary.dictionaries
    ]
    prompt = toy_lines(channels, [5])[0]
    assert torch.equal(again.sample(prompt, max_len_b=90), model.sample(prompt, max_len_b=90))
    units = toy_lines(channels, [100])[0]
    torch.testing.assert_close(again.score(units).log_probabilities, model.score(units).log_probabilities)
    # Tied weights are one tensor again, and what is saved again is the same to the byte.
    one = again.models[0].decoder
    assert (one.output_projection[0].weight is one.embed_tokens.weight) == bool(
        options.get("share_decoder_input_output_embed")
    )
    again.save_pretrained(tmp_path / "twice")
    for path in (tmp_path / "saved").iterdir():
        assert (tmp_path / "twice" / path.name).read_bytes() == path.read_bytes(), path.name


def test_half_precision_stays_half(toy: Path, tmp_path: Path) -> None:
    model = load_speech_dlm(toy).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    again = load_speech_dlm(tmp_path / "half")
    assert same_weights(model, again) and again.models[0].decoder.layers[0].fc1.weight.dtype == torch.bfloat16


def test_the_files_are_those_that_the_documents_name(saved: Path) -> None:
    from safetensors import safe_open

    assert sorted(path.name for path in saved.iterdir()) == FILES
    config = json.loads((saved / "config.json").read_text())
    assert config["task"]["channels"] == "unitA,unitB" and config["model"]["decoder_layers"] == 3
    with safe_open(saved / "model.safetensors", "pt") as file:
        assert "decoder.embed_tokens.weight" in file.keys()  # noqa: SIM118 - no mapping
    assert all(str(saved.parent) not in path.read_text() for path in saved.iterdir() if path.suffix != ".safetensors")


def test_options_can_be_changed_and_unknown_ones_are_refused(saved: Path) -> None:
    assert load_speech_dlm(saved, tokens_per_sample=32).models[0].max_decoder_positions() == 64
    assert load_speech_dlm(saved, max_target_positions=32).models[0].max_decoder_positions() == 32
    with pytest.raises(InputError, match="max_positions: no option of the task or the model"):
        load_speech_dlm(saved, max_positions=32)


@pytest.mark.commands
def test_a_model_that_is_there_is_not_overwritten_unasked(toy: Path, tmp_path: Path) -> None:
    first, second = load_speech_dlm(toy), load_speech_dlm(toy, "other.pt")
    first.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="config.json is there already: pass overwrite=True"):
        second.save_pretrained(tmp_path)
    assert same_weights(load_speech_dlm(tmp_path), first)
    second.save_pretrained(tmp_path, overwrite=True)
    assert same_weights(load_speech_dlm(tmp_path), second)
    with pytest.raises(InputError, match="an ensemble of 2 models"):
        load_speech_dlm(toy, "model.pt:other.pt").save_pretrained(tmp_path / "both")


@pytest.mark.commands
@pytest.mark.parametrize("before", [False, True], ids=["new folder", "over another model"])
@pytest.mark.parametrize("killed_at", range(1, 5))
def test_a_killed_save_leaves_nothing_that_loads(toy: Path, tmp_path: Path, before: bool, killed_at: int) -> None:
    """Killed while each of the four files in turn is about to take its place."""
    if before:
        load_speech_dlm(toy, "other.pt").save_pretrained(tmp_path / "model")
    model = load_speech_dlm(toy)
    child = os.fork()
    if not child:
        _die_in_place_of(killed_at)
        model.save_pretrained(tmp_path / "model", overwrite=before)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    with pytest.raises(InputError, match=r"no such checkpoint, nor are config\.json and model\.safetensors"):
        load_speech_dlm(tmp_path / "model")
    model.save_pretrained(tmp_path / "model", overwrite=True)
    assert same_weights(load_speech_dlm(tmp_path / "model"), model)


def _die_in_place_of(change: int) -> None:
    """Die by SIGKILL instead of putting the n-th file in its place."""
    left, replace = change, os.replace

    def or_die(*args: Any, **kwargs: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*args, **kwargs)

    os.replace = or_die  # type: ignore[assignment]


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights cut": (lambda f: cut(f / "model.safetensors", 0.7), r"model\.safetensors: cannot be read, cut off"),
    "weights empty": (lambda f: cut(f / "model.safetensors", 0), r"model\.safetensors: cannot be read, cut off"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: no such file: not the whole"),
    "no config": (lambda f: (f / "config.json").unlink(), r"model\.pt: no such checkpoint, nor are config\.json and"),
    "no dictionary": (lambda f: (f / "dict.unitB.txt").unlink(), r"dict\.unitB\.txt: no such file"),
    "config cut": (lambda f: cut(f / "config.json", 0.5), r"config\.json: not JSON"),
    "another model": (
        lambda f: change_config(f, lambda c: c.update(model_type="gpt2")),
        r"config\.json: model_type is gpt2, speech_dlm is expected",
    ),
    "another format": (lambda f: change_config(f, lambda c: c.update(format=2)), "format 2, 1 is expected"),
    "key missing": (
        lambda f: change_config(f, lambda c: c["model"].pop("decoder_layers")),
        r"config\.json: model\.decoder_layers is missing",
    ),
    "key unknown": (
        lambda f: change_config(f, lambda c: c["task"].update(chanels="unitA")),
        r"config\.json: task\.chanels is not known",
    ),
    "part missing": (lambda f: change_config(f, lambda c: c.pop("task")), r"config\.json: task is missing"),
    "part of another kind": (lambda f: change_config(f, lambda c: c.update(model=3)), "model is int, an object is"),
    "value of another kind": (
        lambda f: change_config(f, lambda c: c["model"].update(decoder_layers="three")),
        r"config\.json: .*'three'.* could not be converted to Integer",
    ),
    "option out of range": (
        lambda f: change_config(f, lambda c: c["model"].update(decoder_cross_layers=9)),
        "--decoder-cross-layers 9: the model has 3 layers",
    ),
    "other shapes": (
        lambda f: change_config(f, lambda c: c["model"].update(decoder_ffn_embed_dim=64)),
        r"model\.safetensors: decoder\.layers\.0\.fc1\.weight is 32 × 16, 64 × 16 is expected",
    ),
    "more layers": (
        lambda f: change_config(f, lambda c: c["model"].update(decoder_layers=4)),
        r"model\.safetensors has no weights decoder\.layers\.1\.cross_channel_attn|has no weights decoder\.layers\.3",
    ),
    "fewer weights expected": (
        lambda f: change_config(f, lambda c: c["model"].update(duration_prediction="False")),
        r"has weights decoder\.output_duration_prediction\.0\.bias, .*which this model has not",
    ),
    "other dictionary": (
        lambda f: [(f / f"dict.unit{c}.txt").write_text("7 1\n8 1\n") for c in "AB"],
        r"model\.safetensors knows 24 units and symbols, the dictionaries that were read 6",
    ),
    "tied to nothing": (
        lambda f: change_config(f, lambda c: c["tied_weights"].update(a="b")),
        r"model\.safetensors: a is the same as b, which is not there",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_explained_in_one_line(saved: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(saved, tmp_path / "model")
    break_it, message = BROKEN[name]
    break_it(tmp_path / "model")
    with pytest.raises(InputError, match=message) as refused:
        load_speech_dlm(tmp_path / "model")
    assert "\n" not in str(refused.value)
