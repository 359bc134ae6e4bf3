"""SALM trained by fairseq: it learns, what is frozen stays, checkpoints hold what they should; the seed's commands."""

import json
import os
import shlex
import shutil

import pytest
import torch
import yaml

from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError
from speechdlm_ext.hub import SALM
from tests.helpers.commands import run_command
from tests.helpers.processes import Command
from tests.helpers.salm_models import FREEZE, PERCEPTION, TAG, write_config, write_conversations
from tests.helpers.training import fairseq_train

pytestmark = pytest.mark.commands

UPDATE = shlex.split(
    "--task salm_task --arch salm --criterion salm_criterion --context repeat: --optimizer adam --lr 0.01 --cpu "
    "--lr-scheduler fixed --batch-size 6 --num-workers 0 --no-epoch-checkpoints --no-progress-bar --seed 3"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("salm")
    write_config(path, lora={"r": 4})
    write_conversations(path, "train", 12)
    write_conversations(path, "valid", 4, seed=2)
    return path


def train(folder, save, *options):
    """``fairseq-train`` in this process; the checkpoint."""
    fairseq_train(
        [str(folder), "--save-dir", str(save), *UPDATE, "--model-config", str(folder / "model.json"), *options]
    )
    return save / "checkpoint_last.pt"


def test_it_learns_and_what_is_frozen_stays(folder, tmp_path):
    path = train(folder, tmp_path, "--max-update", "30")
    state = load_checkpoint(path)
    start = train(folder, tmp_path / "none", "--max-update", "1", "--lr", "1e-30")
    before = SALM.from_pretrained(start)
    after = SALM.from_pretrained(path)
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(old, new) == (not old.requires_grad), name
    # Little can be learned with a random language model; but that it stays random is tested here.
    assert state["extra_state"]["val_loss"] < load_checkpoint(start)["extra_state"]["val_loss"] - 0.05


def test_alignment_comes_first_and_helps(folder, tmp_path, caplog):
    options = (
        "--ctc-weight",
        "1",
        "--ctc-updates",
        "24",
        "--max-update",
        "26",
        "--log-interval",
        "1",
        "--log-format",
        "json",
    )
    caplog.set_level("INFO")
    path = train(folder, tmp_path, *options)
    rows = [json.loads(record.message) for record in caplog.records if record.name == "train_inner"]
    losses = [float(row["train_ctc_loss"] if "train_ctc_loss" in row else row["ctc_loss"]) for row in rows]
    assert sum(losses[20:24]) < 0.7 * sum(losses[:4])
    aligned = ["nll_loss" in row or "train_nll_loss" in row for row in rows]
    assert aligned == [False] * 24 + [True] * 2
    assert set(load_checkpoint(path)["criterion"]) == {"blank", "scale"}


def test_checkpoints_without_frozen_weights_say_where_these_are(folder, tmp_path):
    path = train(folder, tmp_path, "--max-update", "2", "--save-trained-only")
    state = load_checkpoint(path)
    assert all("lora" in name or name.startswith("perception.") for name in state["model"])
    assert state["task_state"]["salm"]["config"]["pretrained_llm"] == str(folder / "llm")
    model = SALM.from_pretrained(path)
    model.save_pretrained(tmp_path / "saved")
    audio, lens = torch.randn(1, 6000), torch.tensor([6000])
    asked = [[{"role": "user", "content": TAG}]]
    again = SALM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.generate(asked, audio, lens), model.generate(asked, audio, lens))
    # Goes on from the folder: its frozen weights are then there.
    words = ("--pretrained-model", str(tmp_path / "saved"), "--save-trained-only", "--max-update", "2")
    path = train(folder, tmp_path / "more", *words)
    assert load_checkpoint(path)["task_state"]["salm"]["start"] == str(tmp_path / "saved")
    (folder / "llm").rename(folder / "moved")
    try:
        assert torch.isfinite(SALM.from_pretrained(path).perception.proj.weight).all()
        with pytest.raises(InputError, match="its frozen weights are in .*llm"):
            SALM.from_pretrained(tmp_path / "checkpoint_last.pt")
    finally:
        (folder / "moved").rename(folder / "llm")


def test_half_precision_learns_the_same(folder, tmp_path):
    """In bf16 a weight has three digits; the sound goes in as it is."""
    options = ("--max-update", "8", "--bf16", "--checkpoint-activations")
    half = load_checkpoint(train(folder, tmp_path / "bf16", *options))["extra_state"]["val_loss"]
    whole = load_checkpoint(train(folder, tmp_path / "fp32", "--max-update", "8"))["extra_state"]["val_loss"]
    assert half == pytest.approx(whole, rel=0.02)


@pytest.mark.long
def test_two_processes_make_the_update_of_one(folder, tmp_path):
    """Conversations of different lengths: each process has some of the loss's tokens, by all of which it is divided."""
    config = json.loads((folder / "model.json").read_text())
    for part in ("encoder", "modality_adapter"):  # batch norms would see the rows of one process alone
        config["model"]["perception"][part]["conv_norm_type"] = "layer_norm"
    (tmp_path / "model.json").write_text(json.dumps(config))
    shutil.copytree(folder / "llm", tmp_path / "llm")
    once = ["--max-update", "1", "--disable-validation", "--optimizer", "sgd", "--lr", "1"]
    once += ["--model-config", str(tmp_path / "model.json"), "--required-batch-size-multiple", "1"]
    words = ["fairseq-train", folder, "--save-dir", tmp_path / "run", *UPDATE, *once, "--batch-size", "6"]
    command = Command(words, tmp_path, ranks=2)
    together = load_checkpoint(train(folder, tmp_path / "one", *once, "--batch-size", "12"))["model"]
    before = load_checkpoint(train(folder, tmp_path / "none", *once, "--batch-size", "12", "--lr", "1e-30"))["model"]
    command.wait()
    apart = load_checkpoint(tmp_path / "run" / "checkpoint_last.pt")["model"]
    moved = 0
    for name, weight in together.items():
        moved += not torch.equal(weight, before[name])
        torch.testing.assert_close(apart[name], weight, atol=2e-6, rtol=1e-4, msg=name)
    assert moved > 10


@pytest.mark.long
def test_the_configuration_for_hydra(folder, tmp_path, checkout):
    """configs/salm.yaml with this model and this data, several validation sets, and the best checkpoint."""
    (tmp_path / "data").mkdir()
    for name, source in (("train", "train"), ("tones", "valid"), ("more", "valid")):
        shutil.copyfile(folder / f"{source}.jsonl", tmp_path / "data" / f"{name}.jsonl")
    (tmp_path / "data" / "audio").symlink_to(folder / "audio")
    words = ["--config-dir", checkout / "configs", "--config-name", "salm", f"task.data={tmp_path / 'data'}"]
    words += [f"model.model_config={folder / 'model.json'}", "common.bf16=false", "common.cpu=true"]
    words += ["dataset.valid_subset='tones,more'", "dataset.num_workers=0", "optimization.max_update=2"]
    words += [f"checkpoint.save_dir={tmp_path / 'run'}", f"hydra.run.dir={tmp_path}", "common.log_format=json"]
    words += ["lr_scheduler.warmup_updates=1", "dataset.batch_size=6"]
    environment = {"SPEECHDLM_USER_DIR": str(checkout / "speechdlm_ext")}
    done = run_command(["fairseq-hydra-train", *words], env={**os.environ, **environment})
    said = done.stdout + done.stderr + "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert "tones_loss" in said and "more_accuracy" in said
    assert SALM.from_pretrained(tmp_path / "run" / "checkpoint_best.pt").sampling_rate == 16000


def test_random_weights_are_not_left_out(folder, tmp_path):
    config = {"pretrained_llm": "llm", "pretrained_weights": False, "perception": PERCEPTION, "freeze_params": FREEZE}
    path = tmp_path / "random.json"
    path.write_text(json.dumps(config | {"pretrained_llm": str(folder / "llm")}))
    with pytest.raises(InputError, match="frozen weights are random"):
        train(folder, tmp_path, "--save-trained-only", "--model-config", str(path))


def test_nothing_to_train_and_a_file_that_is_no_yaml_are_one_line(folder, tmp_path, run_loaded):
    config = {"pretrained_llm": str(folder / "llm"), "perception": PERCEPTION, "freeze_params": [".*"]}
    (tmp_path / "frozen.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="all weights are frozen"):
        train(folder, tmp_path, "--model-config", str(tmp_path / "frozen.json"))
    (tmp_path / "salm.yaml").write_text("model: [\n")
    done = run_loaded(["python", "scripts/salm_train.py", "--config-path", tmp_path], check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "salm.yaml: " in done.stderr


def test_the_seeds_commands(folder, tmp_path, run_loaded):
    model = {"pretrained_llm": str(folder / "llm"), "perception": PERCEPTION, "freeze_params": FREEZE}
    model |= {"optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.01, "betas": [0.9, 0.98]}}
    model |= {"lr_scheduler": {"_target_": "nemo.core.optim.lr_scheduler.CosineAnnealing", "warmup_steps": 1}}
    manifest = {"type": "lhotse_as_conversation", "manifest_filepath": str(folder / "train.jsonl")}
    other = {"type": "lhotse_as_conversation", "manifest_filepath": str(folder / "valid.jsonl")}
    data = {"train_ds": {"input_cfg": [manifest], "batch_size": 4, "seed": 5, "num_workers": 0}}
    data |= {"validation_ds": {"datasets": {"tones": {"input_cfg": [other]}, "more": {"input_cfg": [other]}}}}
    config = {"model": model, "data": data, "trainer": {"max_steps": 1, "accelerator": "cpu", "precision": 32}}
    config |= {"exp_manager": {"exp_dir": str(tmp_path / "exp")}}
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "salm.yaml").write_text(yaml.safe_dump(config))
    done = run_loaded(
        [
            "python",
            "scripts/salm_train.py",
            "--config-path",
            tmp_path / "conf",
            "trainer.max_steps=2",
            "--log-format",
            "json",
        ]
    )
    assert '"tones_accuracy"' in done.stdout + done.stderr and '"more_loss"' in done.stdout + done.stderr
    checkpoint, output = tmp_path / "exp" / "checkpoints" / "checkpoint_last.pt", tmp_path / "generations.jsonl"
    words = [f"pretrained_name={checkpoint}", f"inputs={folder / 'valid.jsonl'}", "batch_size=3", "max_new_tokens=4"]
    done = run_loaded(["python", "scripts/salm_eval.py", *words, f"output_manifest={output}", "use_normalizer=basic"])
    assert "WER" in done.stdout and "RTFx" in done.stdout
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [set(row) for row in rows] == [{"id", "duration", "text", "pred_text"}] * 4
    assert [row["duration"] for row in rows] == sorted((row["duration"] for row in rows), reverse=True)
