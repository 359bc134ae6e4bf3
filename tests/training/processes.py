"""fairseq's commands in processes of their own, one or more ranks, without the seconds that it takes to import them.

A server process imports fairseq once and is forked for each rank: a real process that can be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.ports import free_port

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["torch._dynamo", "fairseq_cli.train", "fairseq_cli.validate", "speechdlm_ext.tasks.speech_dlm_task"]
)


def _run(words: list[str], environment: dict[str, str], output: str) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # of a loader's workers, as in a command started by hand
    sys.argv = words
    import_module("fairseq_cli." + words[0].removeprefix("fairseq-").replace("-", "_")).cli_main()


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
