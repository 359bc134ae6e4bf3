"""A SLURM of its own for tests: controller, node daemons and munge on this machine, without root, systemd or cgroups.

Debian's packages are enough: ``apt-get install --no-install-recommends munge slurmctld slurmd slurm-client``. By hand:
``python -m tests.helpers.slurm 2`` starts one of two nodes, and stops it after Ctrl-C.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

PROGRAMS = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))  # daemons are not on a user's PATH

# Nodes have the names of addresses, so that what `scontrol show hostnames` says can be connected to. They have what is
# written here, whatever the machine has; of the GPUs only CUDA_VISIBLE_DEVICES is real.
_CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo="socket={folder}/munge.socket,cred_expire=5"
StateSaveLocation="{folder}/state"
SlurmdSpoolDir="{folder}/spool/%n"
SlurmctldPidFile="{folder}/state/slurmctld.pid"
SlurmdPidFile="{folder}/state/%n.pid"
SlurmdLogFile="{folder}/log/%n.steps"
JobCompType=jobcomp/filetxt
JobCompLoc="{folder}/log/jobs"
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
KillWait=5
MinJobAge=86400
"""


def missing() -> str:
    """What must be installed, as one line; nothing where all is there."""
    lacking = [package for program, package in PROGRAMS.items() if not shutil.which(program, path=_PATH)]
    return f"no SLURM: apt-get install --no-install-recommends {' '.join(lacking)}" if lacking else ""


class Cluster:
    """A context manager; commands use it with :attr:`environment`."""

    def __init__(self, nodes: int = 2) -> None:
        self.nodes = nodes
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # sockets must have short paths
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _PATH}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        try:
            self._configure()
            self._daemon(
                "munged", "--foreground", "--force", f"--key-file={self.folder}/munge.key",
                f"--socket={self.folder}/munge.socket", f"--pid-file={self.folder}/state/munged.pid",
                f"--seed-file={self.folder}/state/munged.seed", f"--log-file={self.folder}/log/munged.own",
            )  # fmt: skip
            self._wait(10, (self.folder / "munge.socket").exists)
            configuration = self.environment["SLURM_CONF"]
            self._daemon("slurmctld", "-D", "-c", "-f", configuration)
            for name in self._names():
                self._daemon("slurmd", "-D", "-f", configuration, "-N", name)
            self._wait(30, self._idle)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run(
        self, *words: object, cwd: Path | None = None, check: bool = True, timeout: float = 300, **more: str
    ) -> str:
        """The output of a command of SLURM; its environment is this process's, and ``more``."""
        done = subprocess.run(
            list(map(str, words)), cwd=cwd, env=self.shell(more), timeout=timeout, capture_output=True, text=True
        )
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def shell(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a shell whose user has this cluster."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH"))}
        return {**kept, **self.environment, **(more or {})}

    def states(self, job: str) -> dict[int, str]:
        """The state of each task of an array that has one, also of those that have ended."""
        tasks = (dict(word.partition("=")[::2] for word in line.split())
                 for line in self.run("scontrol", "-o", "show", "job", job).splitlines())  # fmt: skip
        return {int(task["ArrayTaskId"]): task["JobState"] for task in tasks if task.get("ArrayTaskId", "").isdigit()}

    def stop(self) -> None:
        """End jobs and daemons, and remove the folder."""
        if len(self._daemons) > 1:
            subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=self.shell(), timeout=20, check=False)
            try:
                self._wait(10, lambda: not self.run("squeue", "-h", check=False))
            except TimeoutError:
                pass
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
        for process in self._of_jobs():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.folder, ignore_errors=True)

    def _of_jobs(self) -> list[int]:
        """Processes of jobs that have outlived their daemons."""
        mine, found = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if mine in variables and any(name.startswith(b"SLURM_JOB_ID=") for name in variables):
                found.append(int(path.parent.name))
        return found

    def _names(self) -> list[str]:
        return [f"127.0.0.{number}" for number in range(1, self.nodes + 1)]

    def _configure(self) -> None:
        for name in ("state", "spool", "log"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        with ExitStack() as stack:  # all at once, so that no port is given twice
            free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(self.nodes + 1)]
            ports = [one.getsockname()[1] for one in free]
        host = socket.gethostname().partition(".")[0]
        text = _CONFIGURATION.format(host=host, ports=ports, user=getpass.getuser(), folder=self.folder)
        for name, port in zip(self._names(), ports[1:], strict=True):
            text += f"NodeName={name} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=64000 Gres=gpu:2\n"
        text += "PartitionName=main Nodes=ALL Default=YES\n"
        Path(self.environment["SLURM_CONF"]).write_text(text)
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")

    def _daemon(self, *words: str) -> None:
        with open(self.folder / "log" / f"{words[0]}{len(self._daemons)}", "wb") as log:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.shell(), start_new_session=True
            )
        self._daemons.append(process)

    def _idle(self) -> bool:
        return self.run("sinfo", "-h", "-t", "idle", "-o", "%D", check=False).strip() == str(self.nodes)

    def _wait(self, seconds: float, done: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end or any(daemon.poll() is not None for daemon in self._daemons):
                logs = "\n".join(path.read_text(errors="replace")[-500:] for path in self.folder.glob("log/*"))
                raise TimeoutError(f"the cluster in {self.folder} is not ready:\n{logs}")
            time.sleep(0.1)


if __name__ == "__main__":
    with Cluster(int(sys.argv[1]) if len(sys.argv) > 1 else 2) as cluster:
        print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass
