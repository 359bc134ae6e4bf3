"""Checkpoints of speech-text models that do without what is frozen and pretrained."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch

from speechdlm_ext.checkpoints.duplex import read_duplex
from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.nemo import read_nemo
from tests.helpers import duplex, salm_models
from tests.helpers.processes import Command
from tests.helpers.training import fairseq_train, weights_in

COMMON = shlex.split(
    "--cpu --num-workers 0 --no-epoch-checkpoints --no-progress-bar --seed 3 --optimizer adam --lr 0.01 "
    "--lr-scheduler fixed --batch-size 2 --disable-validation"
)
KINDS = {
    "salm": shlex.split("--task salm_task --arch salm --criterion salm_criterion --context repeat:"),
    "duplex": shlex.split("--task duplex_s2s_task --arch duplex_s2s --criterion duplex_criterion"),
}
FREEZE = [r"^llm\..+$", r"^embed_tokens\..+$"]


def _write(kind: str, folder: Path) -> None:
    if kind == "salm":
        salm_models.write_config(folder)
        salm_models.write_conversations(folder, "train", 8)
        salm_models.write_conversations(folder, "valid", 1)
    else:
        llm = salm_models.write_llm(folder / "llm")
        config = {"pretrained_weights": True, "tokenizer": "llm", "freeze_params": FREEZE}
        duplex.write_config(folder, pretrained_llm=llm.name, **config)
        duplex.write_conversations(folder, "train", 8)
        duplex.write_conversations(folder, "valid", 1)


def _train(kind: str, folder: Path, save: str, updates: int, *more: str) -> Path:
    words = [str(folder), "--save-dir", str(folder / save), "--model-config", str(folder / "model.json")]
    fairseq_train([*words, *KINDS[kind], *COMMON, "--max-update", str(updates), *more])
    return folder / save / "checkpoint_last.pt"


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_undisturbed_one(kind, tmp_path):
    _write(kind, tmp_path)
    _train(kind, tmp_path, "whole", 5)
    _train(kind, tmp_path, "parts", 2, "--save-trained-only")
    path = _train(kind, tmp_path, "parts", 5, "--save-trained-only")
    whole, parts = weights_in(tmp_path / "whole"), weights_in(tmp_path / "parts")
    frozen = {name for name in whole if name.startswith(("llm.", "embed_tokens."))}
    assert frozen and set(parts) == set(whole) - frozen
    for name, weight in parts.items():
        assert torch.equal(weight, whole[name]), name
    assert str(tmp_path / "llm") in str(load_checkpoint(path)["task_state"])  # where the rest is


def test_a_duplex_model_without_its_frozen_weights_is_read_with_them(tmp_path):
    _write("duplex", tmp_path)
    path = _train("duplex", tmp_path, "run", 2, "--save-trained-only")
    whole = _train("duplex", tmp_path, "whole", 2)
    model, expected = read_duplex(path)[0], read_duplex(whole)[0]
    for name, weight in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    (tmp_path / "llm").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="its frozen weights are in .*llm"):
        read_duplex(path)


def test_a_duplex_model_hears_by_a_recogniser(data, tmp_path):
    asr = data / "reference" / "nemo" / "ctc_char.nemo"
    config = {"pretrained_weights": True, "tokenizer": "llm", "pretrained_asr": str(asr)}
    llm = salm_models.write_llm(tmp_path / "llm").name
    frozen = [*FREEZE, r"^perception\.(preprocessor|encoder)\."]
    # Units come every 20 ms, too: four of the recogniser's frames make one of 80 ms.
    perception = {"stack": 4, "output_dim": 16}
    duplex.write_config(tmp_path, pretrained_llm=llm, perception=perception, freeze_params=frozen, **config)
    for split in ("train", "valid"):
        duplex.write_conversations(tmp_path, split, 2)
    path = _train("duplex", tmp_path, "run", 2, "--save-trained-only")
    kept = load_checkpoint(path)["model"]
    assert not any(name.startswith("perception.encoder.") for name in kept) and "perception.proj.weight" in kept
    found = read_duplex(path)[0].perception.state_dict()
    for name, weight in read_nemo(asr).weights.items():
        if name.startswith("encoder."):
            assert torch.equal(found[name], weight), name


def test_random_weights_are_not_left_out(tmp_path):
    duplex.write_config(tmp_path, freeze_params=FREEZE)
    duplex.write_conversations(tmp_path, "train", 2)
    duplex.write_conversations(tmp_path, "valid", 1)
    with pytest.raises(InputError, match="frozen weights are random"):
        _train("duplex", tmp_path, "run", 1, "--save-trained-only")


@pytest.mark.long
@pytest.mark.parametrize(("kind", "stops"), [("salm", [2]), ("duplex", [1, 2])])
def test_two_sharded_processes_make_the_updates_of_one(kind, stops, tmp_path, checkout):
    """Stopped and resumed, too; what they save after an epoch is whole, and goes on without sharding."""
    _write(kind, tmp_path)
    momentum = shlex.split("--optimizer sgd --lr 0.05 --momentum 0.9 --clip-norm 0.5")
    words = ["fairseq-train", tmp_path, "--save-dir", tmp_path / "two", "--model-config", tmp_path / "model.json"]
    words += [*KINDS[kind], *COMMON, *momentum, "--user-dir", checkout / "speechdlm_ext"]
    for updates in stops:
        sharded = ["--ddp-backend", "fully_sharded", "--max-update", updates]
        Command([*words, *sharded], tmp_path / f"log{updates}", ranks=2).wait()
    for save in ("one", "two"):
        _train(kind, tmp_path, save, 4, *momentum, "--update-freq", "2")
    two, one = weights_in(tmp_path / "two"), weights_in(tmp_path / "one")
    assert two.keys() == one.keys()
    for name, weight in one.items():
        if "batch_norm.running" not in name and "num_batches" not in name:  # each process has its own running means
            assert torch.allclose(two[name], weight, atol=2e-6), name
