"""What fairseq's commands say when the fault is in what they were given: one line, status 2, and no traceback."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from speechdlm_ext.compat import commands
from speechdlm_ext.errors import InputError
from tests.battery.steps import HYDRA


def _ends(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        commands._end_in_one_line(error)
    return ended.value.code, capsys.readouterr().err


class ProcessRaisedException(Exception):
    """Named as that of torch.multiprocessing.spawn."""


CHILD = """

-- Process 0 terminated with the following error:
Traceback (most recent call last):
  File "x.py", line 1, in <module>
speechdlm_ext.errors.InputError: a.pt: is not a whole checkpoint
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("a.wav has\n1 channel"), "error: a.wav has 1 channel"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "x.txt"),
            "error: No such file or directory: x.txt",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device"),
        (FileNotFoundError("Dataset not found: valid (bin)"), "error: Dataset not found: valid (bin)"),
        (Exception("Could not infer language pair"), "error: Could not infer language pair"),
        (ImportError("Please install wandb: pip install wandb"), "error: Please install wandb: pip install wandb"),
        (ProcessRaisedException(CHILD), "error: a.pt: is not a whole checkpoint"),
        (
            InputError(f"Caught InputError in DataLoader worker process 0.{CHILD}"),
            "error: a.pt: is not a whole checkpoint",
        ),
    ],
)
@pytest.mark.parametrize("program", ["/x/bin/fairseq-train", "/x/fairseq_cli/train.py"])
def test_errors_of_users_are_one_line(
    error: Exception, said: str, program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [program])
    assert _ends(error, capsys) == (2, f"fairseq-train: {said}\n")


def test_control_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["/x/fairseq_cli/hydra_train.py"])
    assert _ends(KeyboardInterrupt(), capsys) == (130, "fairseq-hydra-train: interrupted\n")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a fault"),
        ImportError("no module x"),
        OSError(errno.EBADF, "?"),
        ProcessRaisedException("ValueError: x"),
    ],
)
def test_faults_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fairseq-train"])
    commands._end_in_one_line(error)


def test_other_programs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("python", "", "my_train.py", "/x/train.py"):
        monkeypatch.setattr("sys.argv", [program])
        commands._end_in_one_line(InputError("x"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["fairseq-train", "{tmp}", "--user-dir", "{tmp}/wrong folder"],
            "--user-dir {tmp}/wrong folder: no such folder",
        ),
        (["fairseq-generate", "{tmp}", "--path", "{tmp}/no.pt", "--cpu"], "Could not infer language pair"),
        (["fairseq-eval-lm", "{tmp}", "--path", "{tmp}/no.pt", "--cpu"], "No such file or directory: {tmp}/dict.txt"),
        (["python", "-m", "fairseq_cli.validate", "{tmp}", "--path", "{tmp}/no.pt", "--cpu"], "--task is missing"),
        (["fairseq-preprocess", "--only-source", "--trainpref", "{tmp}/no", "--destdir", "{tmp}/é '1'"], "no"),
        (["fairseq-hydra-train", *HYDRA, "task.data={tmp}", "common.user_dir={tmp}/wrong"], "--user-dir {tmp}/wrong"),
    ],
)
def test_real_commands(words: list[str], said: str, tmp_path: Path, run_command: Any, run_loaded: Any) -> None:
    words = [word.replace("{tmp}", str(tmp_path)) for word in words]
    # One of each way to start: a command, a module, hydra; the others say the same without the seconds of a start.
    run = run_command if words[0] in ("python", "fairseq-train", "fairseq-hydra-train") else run_loaded
    done = run(words, cwd=tmp_path, check=False)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr + done.stdout
    assert (
        lines[-1].startswith("fairseq-")
        and ": error: " in lines[-1]
        and said.replace("{tmp}", str(tmp_path)) in lines[-1]
    )


def test_a_user_dir_that_is_none(tmp_path: Path) -> None:
    from argparse import Namespace

    from fairseq import utils

    (tmp_path / "module.py").write_text("")
    for wrong, said in (
        ("", "is empty"),
        (str(tmp_path / "module.py"), "is a file"),
        (str(tmp_path / "x"), "no such folder"),
    ):
        with pytest.raises(InputError, match=said):
            utils.import_user_module(Namespace(user_dir=wrong))
    utils.import_user_module(Namespace(user_dir=None))
    (tmp_path / "needs_a_file").mkdir()
    (tmp_path / "needs_a_file" / "__init__.py").write_text("open('/nonexistent/file')\n")
    with pytest.raises(FileNotFoundError, match="/nonexistent/file"):
        utils.import_user_module(Namespace(user_dir=str(tmp_path / "needs_a_file")))
