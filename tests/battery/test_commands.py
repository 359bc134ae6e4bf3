"""Stock fairseq commands on this Python, each judged by what it made."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.compat.checkpoints import load_checkpoint
from tests.helpers.battery import EPOCHS, TEST_LINES, Battery, Done

pytestmark = pytest.mark.commands


@pytest.fixture(scope="module", autouse=True)
def run_ahead(battery: Battery, request: pytest.FixtureRequest) -> None:
    """When most of this module's tests run, their commands run ahead of them, two at a time."""
    if sum(item.path == request.path for item in request.session.items) > 20:
        battery.run_ahead(apart=any(item.get_closest_marker("long") for item in request.session.items))


def checkpoint(done: Done | Path, name: str = "checkpoint_last.pt") -> dict[str, Any]:
    folder = done.folder if isinstance(done, Done) else done
    state: dict[str, Any] = load_checkpoint(folder / "checkpoints" / name)
    return state


def flatten(value: Any, path: str = "") -> dict[str, torch.Tensor]:
    """All tensors in nested dicts and lists, by their path."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {name: tensor for key, part in items for name, tensor in flatten(part, f"{path}/{key}").items()}


def assert_same_training(one: Any, other: Any) -> None:
    """Weights and optimizer state agree to the last bit."""
    for part in ("model", "last_optimizer_state"):
        left, right = flatten(one[part]), flatten(other[part])
        assert left.keys() == right.keys() and left
        for name, tensor in left.items():
            assert torch.equal(tensor, right[name]), f"{part}{name} differs"


def losses(done: Done, tag: str) -> list[float]:
    found = [float(row[f"{tag}_loss"]) for row in done.logged(tag)]
    assert found and all(map(math.isfinite, found)), done.output[-2000:]
    return found


def hypotheses(done: Done) -> dict[int, list[str]]:
    rows = re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", done.output, re.MULTILINE)
    assert all(math.isfinite(float(score)) for _, score, _ in rows)
    return {int(number): text.split() for number, _, text in rows}


def assert_refused(done: Done, *words: str) -> None:
    """Status 2, and one line on standard error beside the log."""
    assert done.process.returncode == 2, done.output[-2000:]
    assert "Traceback" not in done.output
    last = done.process.stderr.strip().splitlines()[-1]
    assert last.startswith("fairseq-train: error: ")
    for word in words:
        assert word in last


def test_preprocess_keeps_every_line(battery: Battery, user_dir: bool) -> None:
    done = battery.get("preprocess", user_dir)
    from fairseq.data import Dictionary, data_utils

    dictionary = Dictionary.load(str(done.folder / "dict.src.txt"))
    dataset = data_utils.load_indexed_dataset(str(done.folder / "test.src-tgt.src"), dictionary)
    text = [dictionary.string(dataset[index]) for index in range(len(dataset))]
    assert text == (battery.folder / "test.src").read_text().splitlines()


def test_training_learns(battery: Battery, user_dir: bool) -> None:
    done = battery.get("train", user_dir)
    train = losses(done, "train")
    assert len(train) == EPOCHS and train[-1] < train[0] - 0.3
    assert losses(done, "valid")[-1] < losses(done, "valid")[0]
    assert all(tensor.isfinite().all() for tensor in flatten(checkpoint(done)["model"]).values())


def test_user_dir_changes_nothing_for_other_tasks(battery: Battery) -> None:
    assert_same_training(checkpoint(battery.get("train", False)), checkpoint(battery.get("train", True)))


def test_a_resumed_run_ends_as_an_undisturbed_one(battery: Battery, user_dir: bool) -> None:
    battery.get("resume", user_dir)
    resumed = battery.get("train_one_epoch", user_dir)
    assert "Loaded checkpoint" in battery.get("resume", user_dir).output
    assert_same_training(checkpoint(resumed), checkpoint(battery.get("train", user_dir)))
    assert checkpoint(resumed, "checkpoint_best.pt")["extra_state"]["best"] == pytest.approx(
        checkpoint(battery.get("train", user_dir), "checkpoint_best.pt")["extra_state"]["best"]
    )


def test_validate_gives_the_loss_of_training(battery: Battery, user_dir: bool) -> None:
    validated = battery.get("validate", user_dir)
    rows = re.findall(r'"valid_loss": "([\d.]+)"', validated.output)
    assert [float(rows[-1])] == losses(battery.get("train"), "valid")[-1:]


@pytest.mark.parametrize("step", ["generate", "sample"])
def test_generation_answers_every_line(battery: Battery, user_dir: bool, step: str) -> None:
    found = hypotheses(battery.get(step, user_dir))
    assert sorted(found) == list(range(TEST_LINES))
    assert {unit for words in found.values() for unit in words} <= set("01234567")
    assert any(found.values())


def test_sampling_is_a_function_of_the_seed_and_not_the_best_path(battery: Battery) -> None:
    assert hypotheses(battery.get("sample", False)) == hypotheses(battery.get("sample", True))
    assert hypotheses(battery.get("sample")) != hypotheses(battery.get("generate"))


def test_interactive_says_what_generate_says(battery: Battery, user_dir: bool) -> None:
    assert hypotheses(battery.get("interactive", user_dir)) == hypotheses(battery.get("generate", user_dir))


def test_eval_lm_gives_the_loss_of_training(battery: Battery, user_dir: bool) -> None:
    loss = re.search(r"Loss \(base 2\): ([\d.]+), Perplexity: ([\d.]+)", battery.get("eval_lm", user_dir).output)
    assert loss is not None
    assert float(loss[1]) == pytest.approx(losses(battery.get("train_lm"), "valid")[-1], abs=2e-3)
    assert float(loss[2]) == pytest.approx(2 ** float(loss[1]), abs=0.01)


def test_score_is_bleu(battery: Battery) -> None:
    # One wrong unit of five, the last: precisions 4/5, 3/4, 2/3, 1/2, no brevity penalty.
    expected = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    found = re.search(r"BLEU4 = ([\d.]+)", battery.get("score").output)
    assert found is not None and float(found[1]) == pytest.approx(expected, abs=0.005)


def test_hydra_trains(battery: Battery, user_dir: bool) -> None:
    done = battery.get("hydra", user_dir)
    assert losses(done, "train")[-1] < losses(done, "train")[0] - 0.3
    assert (done.folder / "checkpoints" / "checkpoint_best.pt").is_file()


@pytest.mark.long
def test_each_job_of_a_multirun_is_a_run_of_its_own(battery: Battery, user_dir: bool) -> None:
    done = battery.get("multirun", user_dir)
    first, second = (checkpoint(done.folder / job) for job in "01")
    assert_same_training(first, checkpoint(battery.get("hydra", user_dir)))
    assert any(not torch.equal(tensor, second["model"][name]) for name, tensor in first["model"].items())
    for job in "01":
        best = checkpoint(done.folder / job, "checkpoint_best.pt")["extra_state"]
        assert best["best"] == best["val_loss"]


def test_two_ranks_train_together_and_resume(battery: Battery, user_dir: bool) -> None:
    whole = battery.get("two_ranks", user_dir)
    assert "distributed init (rank 1)" in whole.output
    assert "'ddp_backend': 'pytorch_ddp'" in whole.output
    battery.get("two_ranks_resume", user_dir)
    assert_same_training(checkpoint(battery.get("two_ranks_one_epoch", user_dir)), checkpoint(whole))
    # Two ranks share the 120 lines: fewer updates than one process makes, of larger batches.
    assert 0 < int(whole.logged("train")[-1]["train_num_updates"]) < 10


def test_tensorboard_has_the_logged_losses(battery: Battery, user_dir: bool) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = battery.get("train", user_dir)
    for tag, folder in (("train", "train"), ("valid", "valid")):
        events = EventAccumulator(str(done.folder / "tensorboard" / folder))
        events.Reload()
        written = [scalar.value for scalar in events.Scalars("loss")]
        assert written == pytest.approx(losses(done, tag), abs=2e-3)


def test_checkpointed_activations_change_nothing(battery: Battery) -> None:
    usual, saving = (flatten(checkpoint(battery.get(step))["model"]) for step in ("train", "activations"))
    saving = {name.replace("_checkpoint_wrapped_module.", ""): tensor for name, tensor in saving.items()}
    assert usual.keys() == saving.keys()
    for name, tensor in usual.items():
        torch.testing.assert_close(saving[name], tensor, rtol=1e-3, atol=1e-4)


def test_amp_on_a_cpu_is_single_precision(battery: Battery) -> None:
    usual, amp = (flatten(checkpoint(battery.get(step))["model"]) for step in ("train", "amp"))
    for name, tensor in usual.items():
        torch.testing.assert_close(amp[name], tensor, rtol=1e-3, atol=1e-4)


def test_bf16_on_a_cpu_trains_in_bf16(battery: Battery) -> None:
    done = battery.get("bf16")
    assert losses(done, "train")[-1] < losses(done, "train")[0] - 0.3
    weights = flatten(checkpoint(done)["model"])
    assert all(torch.equal(tensor, tensor.bfloat16().float()) for tensor in weights.values())
    usual = flatten(checkpoint(battery.get("train"))["model"])
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in usual.values())


def test_fp16_on_a_cpu_is_refused(battery: Battery) -> None:
    assert_refused(battery.get("fp16"), "--fp16", "--bf16")
    assert not list(battery.get("fp16").folder.glob("checkpoints/*.pt"))


def test_sharding_in_a_single_process_is_refused(battery: Battery) -> None:
    assert_refused(battery.get("fully_sharded"), "fully_sharded", "single process")


def test_options_in_a_checkpoint_are_plain(battery: Battery) -> None:
    """What was saved can be read by any pickle reader that knows argparse, and by torch's own allow-list."""
    state = checkpoint(battery.get("train"))
    assert state["cfg"]["task"]["_name"] == "translation"
    json.dumps(state["cfg"]["optimizer"])
