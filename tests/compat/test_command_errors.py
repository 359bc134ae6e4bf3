"""What fairseq's commands say when the fault is in what they were given: one line, status 2, and no traceback."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from speechdlm_ext.compat.commands import end_in_one_line
from speechdlm_ext.errors import InputError
from tests.helpers.battery import HYDRA


def raised(
    error: BaseException, module: str = "fairseq.trainer", file: str = "/lib/fairseq/trainer.py"
) -> BaseException:
    """The error with the traceback that it gets where a function of that module raises it."""
    scope: dict[str, Any] = {"__name__": module, "error": error}
    exec(compile("def f():\n    raise error", file, "exec"), scope)
    with pytest.raises(type(error)) as caught:
        scope["f"]()
    return caught.value


def _ends(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        end_in_one_line(error)
    return ended.value.code, capsys.readouterr().err


class ProcessRaisedException(Exception):
    """Named as that of torch.multiprocessing.spawn."""


CHILD = """

-- Process 0 terminated with the following error:
Traceback (most recent call last):
  File "x.py", line 1, in <module>
speechdlm_ext.errors.InputError: a.pt: is not a whole checkpoint
"""


def _torchs(cause: OSError) -> RuntimeError:
    """As torch.save tells that the disk is full: an error of its own, made while the real one was handled."""
    try:
        try:
            raise cause
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 304000 vs 303888")  # noqa: B904
    except RuntimeError as error:
        return error.with_traceback(None)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("a.wav has\n1 channel"), "error: a.wav has 1 channel"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "x.txt"),
            "error: No such file or directory: x.txt",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device"),
        (_torchs(OSError(errno.ENOSPC, "No space left on device", "a.pt")), "error: No space left on device: a.pt"),
        (FileNotFoundError("Dataset not found: valid (bin)"), "error: Dataset not found: valid (bin)"),
        (Exception("Could not infer language pair"), "error: Could not infer language pair"),
        (ImportError("Please install wandb: pip install wandb"), "error: Please install wandb: pip install wandb"),
        (AssertionError("Optimizer does not match"), "error: Optimizer does not match"),
        (ValueError("Incorrect dictionary format"), "error: Incorrect dictionary format"),
        (ProcessRaisedException(CHILD), "error: a.pt: is not a whole checkpoint"),
        (ProcessRaisedException("x\nOSError: [Errno 28] No space: 'a'"), "error: [Errno 28] No space: 'a'"),
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
    error = raised(error)  # type: ignore[assignment]
    assert _ends(error, capsys) == (2, f"fairseq-train: {said}\n")
    monkeypatch.setenv("SPEECHDLM_TRACEBACK", "1")
    end_in_one_line(error)  # which leaves it to Python
    assert capsys.readouterr().err == ""


def test_control_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["/x/fairseq_cli/hydra_train.py"])
    assert _ends(KeyboardInterrupt(), capsys) == (130, "fairseq-hydra-train: interrupted\n")


def _within_fairseq(call: str) -> BaseException:
    scope: dict[str, Any] = {"__name__": "fairseq.data.x"}
    with pytest.raises(Exception, match=".") as caught:
        exec(compile(call, "/lib/fairseq/data/x.py", "exec"), scope)
    return caught.value


@pytest.mark.parametrize(
    "make",
    [
        lambda: _within_fairseq("int('x')"),
        lambda: _within_fairseq("[].pop()"),
        lambda: _within_fairseq("import no_such_module"),
        lambda: raised(OSError(errno.EBADF, "?")),
        lambda: raised(ProcessRaisedException("ValueError: x")),
        lambda: raised(KeyError("x")),
        # What a user's own plugin raises is never cut short, but for an InputError.
        lambda: raised(FileNotFoundError(errno.ENOENT, "No such file", "x"), "my_plugin", "/home/me/my_plugin/task.py"),
        lambda: raised(Exception("my words"), "my_plugin.models", "/home/me/my_plugin/models.py"),
    ],
)
def test_faults_keep_their_traceback(make: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fairseq-train"])
    end_in_one_line(make())


def test_other_programs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("python", "", "my_train.py", "/x/train.py"):
        monkeypatch.setattr("sys.argv", [program])
        end_in_one_line(InputError("x"))


OUR_COMMAND = """
import sys
from speechdlm_ext.errors import InputError, run_command
def main():
    try:
        open("/dev/full", "w", buffering=1).write("x" * 10_000)
    except OSError as error:
        if sys.argv[1] == "input":
            raise InputError("a.wav has 1 channel") from None
        if sys.argv[1] == "torch":
            raise RuntimeError("unexpected pos 304000 vs 303888")
        raise KeyError("a fault of ours")
run_command(main)
"""


@pytest.mark.parametrize(
    ("kind", "said"),
    [("input", "error: a.wav has 1 channel"), ("torch", "error: No space left on device"), ("fault", None)],
)
def test_our_own_commands(kind: str, said: str | None, run_command: Any) -> None:
    done = run_command(["python", "-c", OUR_COMMAND, kind], check=False)
    if said is None:
        assert done.returncode == 1 and "a fault of ours" in done.stderr and "Traceback" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (2, f"-c: {said}\n")
    shown = run_command(["python", "-c", OUR_COMMAND, kind], check=False, env={"SPEECHDLM_TRACEBACK": "1"})
    assert shown.returncode == 1 and "Traceback" in shown.stderr


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
