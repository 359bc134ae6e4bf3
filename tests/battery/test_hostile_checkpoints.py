"""fairseq's commands given checkpoints that do harm: nothing runs, and one line says what to do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.compat.checkpoints import load_checkpoint
from tests.helpers.battery import HYDRA, TRANSLATION, Battery
from tests.helpers.hostile import payloads

pytestmark = pytest.mark.commands


def _command(battery: Battery, name: str, bad: Path, folder: Path) -> list[str]:
    data, text = (str(battery.get(step).folder) for step in ("preprocess", "preprocess_lm"))
    train = ["fairseq-train", data, *TRANSLATION, "--max-epoch", "1", "--save-dir", str(folder / "new")]
    model = ["--path", str(bad), "--cpu"]
    return {
        "validate": ["fairseq-validate", data, "--task", "translation", "--max-tokens", "256", *model],
        "generate": ["fairseq-generate", data, *model],
        "restore": [*train, "--restore-file", str(bad)],
        "fine-tune": [*train, "--finetune-from-model", str(bad)],
        "resume": [*train[:-1], str(bad.parent)],
        "eval-lm": ["fairseq-eval-lm", text, "--tokens-per-sample", "32", *model],
        "hydra": [
            *("fairseq-hydra-train", *HYDRA, f"task.data={text}", f"checkpoint.save_dir={folder / 'new'}"),
            *(f"checkpoint.restore_file={bad}", f"hydra.run.dir={folder}"),
        ],
    }[name]


# Each command meets another kind of payload in another place.
CASES = [
    ("validate", "os.system", "cfg"),
    ("generate", "eval", "extra_state"),
    ("restore", "subprocess", "last_optimizer_state"),
    ("fine-tune", "inside an allowed object", "cfg"),
    ("resume", "fairseq's own eval", "cfg"),
    ("eval-lm", "an option that is evaluated", "cfg"),
    ("hydra", "numpy.load of a pickle", "model"),
]


def _write_hostile(battery: Battery, path: Path, kind: str, place: str, marker: Path) -> None:
    if kind == "an option that is evaluated":
        state = load_checkpoint(battery.get("train_lm").folder / "checkpoints" / "checkpoint_last.pt")
        state["cfg"]["model"]["character_embeddings"] = True
        state["cfg"]["model"]["character_filters"] = f"open({str(marker)!r}, 'w').close() or [(1, 4)]"
    else:
        state = load_checkpoint(battery.get("train").folder / "checkpoints" / "checkpoint_last.pt")
        state[place]["hidden"] = [payloads(marker)[kind]]
    torch.save(state, path)


@pytest.mark.parametrize(("command", "kind", "place"), CASES, ids=[case[0] for case in CASES])
def test_a_hostile_checkpoint_is_refused(
    battery: Battery, run_command: Any, run_loaded: Any, tmp_path: Path, command: str, kind: str, place: str
) -> None:
    """By default nothing runs; the same command with the switch runs the payload, so the test can fail."""

    folders = {trust: tmp_path / f"trust{trust}" for trust in ("", "1")}
    # One after the other: the steps that these ask for are made once, and torch's allow-list is one for all threads.
    for folder in folders.values():
        (folder / "bad").mkdir(parents=True)
        _write_hostile(battery, folder / "bad" / "checkpoint_last.pt", kind, place, folder / "marker")
    commands = {
        trust: _command(battery, command, folder / "bad" / "checkpoint_last.pt", folder)
        for trust, folder in folders.items()
    }

    def start(trust: str) -> Any:
        environment = {"OMP_NUM_THREADS": "1", "SPEECHDLM_TRUST_CHECKPOINTS": trust}
        run = run_loaded if trust else run_command
        return run(commands[trust], cwd=folders[trust], check=False, env=environment)

    with ThreadPoolExecutor(2) as pool:
        done, _ = pool.map(start, folders)
    folder, trusting, words = folders[""], folders["1"], commands[""]
    assert (trusting / "marker").exists()
    assert not (folder / "marker").exists()
    assert [path.name for path in (folder / "bad").iterdir()] == ["checkpoint_last.pt"]
    assert done.returncode == 2, (done.stdout + done.stderr)[-3000:]
    assert "Traceback" not in done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"{Path(words[0]).name}: error: ") and "SPEECHDLM_TRUST_CHECKPOINTS=1" in last
    assert str(folder / "bad" / "checkpoint_last.pt") in last or kind == "an option that is evaluated"
