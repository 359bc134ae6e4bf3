"""Commands in processes of their own, one or more ranks, without the seconds that it takes to import torch and fairseq.

A server process imports them once and is forked for each rank: a real process that can be killed.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import random
import runpy
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

_guard = threading.Lock()
_CONTEXT = multiprocessing.get_context("forkserver")
# Not our package: with --user-dir a command imports it by itself.
_CONTEXT.set_forkserver_preload(
    ["torch._dynamo", *(f"fairseq_cli.{name}" for name in ("train", "validate", "generate", "interactive"))]
)


def _begin(output: str, errors: str, environment: Mapping[str, str]) -> None:
    for name, descriptor in ((output, 1), (errors, 2)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.update(environment)
    random.seed()
    multiprocessing.set_start_method("fork", force=True)  # of a loader's workers, as in a command started by hand


def _run(words: list[str], environment: dict[str, str], output: str) -> None:
    _begin(output, output, environment)
    import_module("speechdlm_ext")
    sys.argv = words
    import_module("fairseq_cli." + words[0].removeprefix("fairseq-").replace("-", "_")).cli_main()


def _run_program(words: list[str], environment: dict[str, str], folder: str, cwd: str) -> None:
    _begin(f"{folder}/out", f"{folder}/err", environment)
    os.dup2(os.open(f"{folder}/in", os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # as with PYTHONUTF8
    os.chdir(cwd)
    sys.path.insert(0, str(Path(words[0]).resolve().parent))
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit:
        raise
    except BaseException:  # what Python does at the end of a program; the repairs of fairseq put their hands on it
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        raise SystemExit(1) from None
    finally:
        atexit._run_exitfuncs()  # such as that which closes the files of TensorBoard; forked processes leave them out


def run_loaded(
    arguments: Sequence[str | os.PathLike[str]],
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] = os.environ,
    timeout: float = 600,
    input: str | None = None,
) -> CompletedProcess[str]:
    """A program in Python, ``fairseq-train`` or a path, in a fork of the server: its status and what it said."""
    words = [os.fspath(argument) for argument in arguments]
    if os.sep not in words[0]:
        words[0] = str(Path(sys.executable).parent / words[0])
    with tempfile.TemporaryDirectory() as folder:
        process = start_loaded(words, folder, cwd, env, input)
        end = time.monotonic() + timeout
        while (status := _status(process)) is None:
            if time.monotonic() > end:
                process.kill()
                raise TimeoutExpired(words, timeout)
            wait([process.sentinel], 1)
        said = ["", ""]
        for number, name in enumerate(("out", "err")):
            with suppress(FileNotFoundError):  # it did not get that far
                said[number] = Path(folder, name).read_text(encoding="utf-8", errors="replace")
        return CompletedProcess(words, status, *said)


def start_loaded(
    words: Sequence[str],
    folder: str,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] = os.environ,
    input: str | None = None,
) -> BaseProcess:
    """A program of :func:`run_loaded`, just started; what it says goes to ``out`` and ``err`` in a folder."""
    Path(folder, "in").write_text(input or "", encoding="utf-8")
    place = os.getcwd() if cwd is None else os.fspath(cwd)
    process = _CONTEXT.Process(target=_run_program, args=(list(words), dict(env), folder, place))
    # Starting looks at all processes, and only one thread may read how one has ended.
    with _guard:
        process.start()
    return process


def _status(process: BaseProcess) -> int | None:
    with _guard:
        return process.exitcode


class Command:
    """A command that runs in ``ranks`` processes, as torchrun starts them; its output goes into a file for each."""

    def __init__(self, words: Sequence[object], folder: Path, ranks: int = 1) -> None:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
        place = place if ranks > 1 else {}
        folder.mkdir(parents=True, exist_ok=True)
        self.outputs = [folder / f"rank{rank}.log" for rank in range(ranks)]
        self.processes: list[BaseProcess] = []
        for rank, output in enumerate(self.outputs):
            # The server has the environment of the test that started it, which may be another.
            environment = {**os.environ, **(place and {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)})}
            arguments = ([str(word) for word in words], environment, str(output))
            self.processes.append(_CONTEXT.Process(target=_run, args=arguments))
            with _guard:
                self.processes[-1].start()

    @property
    def running(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def kill(self) -> None:
        """kill -9, all ranks."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def wait(self, seconds: float = 600) -> str:
        """Wait until it has ended well; returns the first rank's output."""
        for process in self.processes:
            process.join(seconds)
        output = self.outputs[0].read_text()
        codes = [process.exitcode for process in self.processes]
        if any(codes):
            self.kill()
        assert codes == [0] * len(codes), f"{codes}\n" + "\n".join(path.read_text()[-3000:] for path in self.outputs)
        return output


def newest(folder: Path) -> float:
    """When the newest checkpoint in a folder was written that a run may be renaming files in, 0 without one."""
    times = [0.0]
    for path in folder.glob("*.pt"):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:  # renamed since
            pass
    return max(times)


def free_port() -> int:
    """A port that nobody listens on, outside the range that systems choose from for connections and for port 0.

    So nothing takes it by chance between now and when it is used; two tests that draw the same one are a chance of
    1 in 22,000.
    """
    chance = random.SystemRandom()  # tests begin with one seed
    while True:
        port = chance.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
