"""Fixtures that every test may use: the checkout, the shared recordings, and real commands as subprocesses."""

from __future__ import annotations

import io
import os
import random
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.helpers import commands

CHECKOUT = Path(__file__).resolve().parents[1]

# A shell's background jobs ignore Ctrl-C, and so would the commands that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Small models gain nothing from threads, and tests run beside one another. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, however slow the machine is; --hypothesis-profile=default looks for others.
settings.register_profile(
    "steady", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

# Files that take a minute or more, begun first, so that none of them is left over for one process at the end.
LONG = (
    "tests/setup/test_readme.py",
    "tests/demo/test_demo.py",
    "tests/battery/test_commands.py",
    "tests/tasks/test_speech_dlm_commands.py",
    "tests/data_prep/test_commands.py",
    "tests/tasks/",
    "tests/training/",
    "tests/battery/",
    "tests/evaluation/",
    "tests/setup/",
)

# What `make test-long` runs, and `make test` does not: variations of what others show at less length.
APART = (
    "test_commands.py::test_two_ranks_train_together_and_resume[stock]",
    "test_commands.py::test_a_resumed_run_ends_as_an_undisturbed_one[stock]",
    "test_commands.py::test_generation_answers_every_line[stock-sample]",
)


# What a module of the group `commands` has in its source: processes, by whatever name.
PROCESSES = ("subprocess", "multiprocessing", "helpers.processes", "helpers.battery", "Command(")


def group_of(item: pytest.Item) -> str:
    """`browser` needs Chromium; `commands` has processes, or is marked (it takes half a second); `unit` is the rest."""
    fixtures = set(getattr(item, "fixturenames", ()))
    if "driver" in fixtures:
        return "browser"
    marked = any(item.get_closest_marker(name) for name in ("commands", "long"))
    if marked or fixtures & {"run_command", "run_loaded"}:
        return "commands"
    return "commands" if any(word in source_of(item.path) for word in PROCESSES) else "unit"


@cache
def source_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its group, and what is APART as long; order files by LONG; within a file nothing changes."""
    for item in items:
        item.add_marker(group_of(item))
        if item.nodeid.endswith(APART):
            item.add_marker(pytest.mark.long)

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(CHECKOUT).as_posix()
        return next((number for number, start in enumerate(LONG) if name.startswith(start)), len(LONG))

    items.sort(key=place)


# What Python reports of a process that is started, whoever starts it.
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
unit_now: list[str] = []  # the test of the group `unit` that runs


def no_processes(event: str, _: object) -> None:
    if event in STARTS and unit_now:
        raise RuntimeError(f"{unit_now[0]} starts a process ({event}): mark it with pytest.mark.commands")


sys.addaudithook(no_processes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test of the group `unit` cannot start a process."""
    unit_now[:] = [item.nodeid] if item.get_closest_marker("unit") else []
    try:
        return (yield)
    finally:
        unit_now.clear()


@pytest.hookimpl(tryfirst=True)  # before fixtures of any scope are made
def pytest_runtest_setup() -> None:
    """Every test and the fixtures made for it begin alike, whichever tests the same process has run before."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return CHECKOUT


@pytest.fixture(scope="session")
def here(checkout: Path) -> Callable[..., tuple[int, str, str]]:
    """``here(script, *arguments)``: status and output of a command in this process, where torch is loaded already."""

    def run(script: str, *arguments: object) -> tuple[int, str, str]:
        before, sys.argv = sys.argv, [script, *map(str, arguments)]
        out, err = io.StringIO(), io.StringIO()
        try:
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
                runpy.run_path(str(checkout / script), run_name="__main__")
        finally:
            sys.argv = before
        return int(ended.value.code or 0), out.getvalue(), err.getvalue()

    return run


@pytest.fixture(scope="session")
def data() -> Path:
    """Licensed speech and lists of published names that are part of the checkout; see tests/data/README.md."""
    return CHECKOUT / "tests" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Shared recordings and reference data: ``$SPEECHDLM_SHARED``, or ``shared`` in or beside the checkout."""
    named = os.environ.get("SPEECHDLM_SHARED")
    places = [Path(named)] if named else [CHECKOUT / "shared", CHECKOUT.parent / "shared"]
    for place in places:
        if (place / "speech").is_dir():
            return place
    pytest.skip(f"no recordings to test with: {' or '.join(map(str, places))} is missing (SPEECHDLM_SHARED names it)")


@pytest.fixture(scope="session", params=["small", pytest.param("large", marks=pytest.mark.commands)])
def reference(request: pytest.FixtureRequest, data: Path) -> Path:
    """Outputs of the public SpeechDLM code: of a tiny model, tracked; and of a larger one, where ``shared`` exists."""
    return data / "reference" if request.param == "small" else request.getfixturevalue("shared") / "reference"


@pytest.fixture(scope="session")
def run_command() -> commands.RunCommand:
    """``run_command(arguments, cwd=…, env=…, timeout=…, check=…)``: a real command, its output captured as text.

    ``"python"`` as the first argument is this interpreter; ``fairseq-train`` and the like are those beside it. The
    checkout is on the path, so tests pass before the package is installed. ``check=True`` (the default) fails the test
    with the command's output when its status is not 0.
    """
    return commands.run_command


@pytest.fixture(scope="session")
def run_loaded() -> commands.RunCommand:
    """The same as ``run_command`` for programs in Python, in a fork of a process that has torch and fairseq loaded.

    For tests of what commands do, not of how they start: that takes 4 of a small command's 5 seconds.
    """
    from tests.helpers import processes

    def run(
        arguments: Sequence[str | os.PathLike[str]],
        env: Mapping[str, str] | None = None,
        check: bool = True,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        first, *rest = arguments
        done = processes.run_loaded(rest if first == "python" else arguments, env=commands.environment(env), **options)
        return commands.checked(done, check)

    return run
