"""A multirun of ours ends in a table of its runs: hydra 1.0 has no callbacks for what is to follow a sweep."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .commands import command_name
from .errors import one_line
from .repair import Repair, replace

# Called with the folder of a finished multirun; returns what to print. The plugin adds to it.
TABULATE: list[Callable[[Path], str]] = []


def _trains_ours(config: Any) -> bool:
    """Whether this sweep is fairseq-hydra-train's, with this package as its ``common.user_dir``."""
    if command_name() != "fairseq-hydra-train":
        return False
    try:
        place = config.common.user_dir
    except Exception:  # no such option, or one that refers to what is not there: the jobs will tell
        return False
    return place is not None and Path(place).resolve() == Path(__file__).resolve().parents[1]


def _write_table(config: Any, folder: Path) -> str:
    """Tabulate the runs that there are so far; returns the table and where it was written."""
    from fairseq import utils

    utils.import_user_module(config.common)  # imports the plugin, which registers what tabulates
    return "".join(tabulate(folder) for tabulate in TABULATE)


def _tabulated(run: Callable[..., Any], config: Any, folder: Path, say: Callable[[str], object]) -> Callable[..., Any]:
    """What ``run`` does, and then the table; where a run fails it is written as well, and the run's fault is told."""

    def followed(*arguments: Any, **options: Any) -> Any:
        try:
            result = run(*arguments, **options)
        except BaseException:
            with suppress(Exception):
                _write_table(config, folder)
            raise
        try:
            table = _write_table(config, folder)
        except Exception as error:
            table = f"no table of the runs in {folder}: {one_line(error)}\n"
        say(table)
        return result

    return followed


def _follow_sweeps(module: Any) -> None:
    original: Callable[..., Any] = module.Plugins.instantiate_sweeper

    @replace(module.Plugins, "instantiate_sweeper")
    def instantiate_sweeper(self: Any, config: Any, config_loader: Any, task_function: Any) -> Any:
        if not _trains_ours(config):
            return original(self, config=config, config_loader=config_loader, task_function=task_function)
        folder = Path(str(config.hydra.sweep.dir)).resolve()  # jobs have working directories of their own
        if "BasicLauncher" in str(config.hydra.launcher):  # jobs run in this process, one after another
            task_function = _tabulated(task_function, config, folder, lambda table: None)
        sweeper = original(self, config=config, config_loader=config_loader, task_function=task_function)
        sweeper.sweep = _tabulated(sweeper.sweep, config, folder, lambda table: print(table, end="", flush=True))
        return sweeper


REPAIRS = [
    Repair(
        name="hydra-sweep-table",
        package="hydra-core",
        fault="a multirun ends without saying which of its runs was the best",
        changes={"hydra.core.plugins": _follow_sweeps},
    ),
]
