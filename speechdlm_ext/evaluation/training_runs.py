"""Training runs as a table: the options in which they differ, and the figures of the best checkpoint of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write

BEST = "checkpoint_best.pt"
# Options that differ because runs are in different folders.
_PLACES = ("save_dir", "tensorboard_logdir", "log_file", "job_logging_cfg")
# Validation figures beside the one by which the best checkpoint is chosen.
SHOWN = ("bits_per_unit", "bits_per_second", "duration_loss", "accuracy")


@dataclass
class TrainingRun:
    """One run.

    Attributes:
        name: its folder, below that of all runs.
        options: of its checkpoint, flat, as in ``model.dropout``.
        metric: by which its best checkpoint was chosen.
        best: that figure; NaN where there is no checkpoint.
        updates, epoch: when it was reached.
        parameters: of the model.
        figures: those of :data:`SHOWN` that were logged at that update.
        greatest: whether higher is better.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    metric: str = ""
    best: float = math.nan
    updates: int = 0
    epoch: int = 0
    parameters: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    greatest: bool = False


def read_runs(folder: Path) -> list[TrainingRun]:
    """The runs in a folder, the best first; those without a checkpoint last.

    A run is a folder with ``checkpoint_best.pt`` in it or in its ``checkpoints``, or one that hydra made (``.hydra``).

    Raises:
        InputError: there is no run in it, or runs chose their best checkpoints by different figures.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of runs")
    places = {path.parent.parent if path.parent.name == "checkpoints" else path.parent for path in folder.rglob(BEST)}
    places |= {path.parent for path in folder.rglob(".hydra") if path.is_dir()}
    runs = [_read(place, str(place.relative_to(folder))) for place in sorted(places) if place != folder]
    if not runs:
        raise InputError(f"{folder}: no run in it, as fairseq-hydra-train --multirun makes them ({BEST} in each)")
    metrics = sorted({run.metric for run in runs if run.metric})
    if len(metrics) > 1:
        raise InputError(
            f"{folder}: its runs chose their best checkpoints by {' and '.join(metrics)}, which cannot be compared "
            "(checkpoint.best_checkpoint_metric)"
        )
    return sorted(runs, key=lambda run: (math.isnan(run.best), -run.best if run.greatest else run.best, run.name))


def write_results(folder: Path, out: Path | None = None) -> tuple[str, Path]:
    """Write the table of the runs in a folder to ``out`` (default: ``results.md`` among them), whole or not at all.

    Returns:
        The table, and where it was written.

    Raises:
        InputError: as :func:`read_runs`.
    """
    table = tabulate(read_runs(folder))
    path = out or folder / "results.md"
    with atomic_write(path) as file:
        file.write(table)
    return table, path


def _read(place: Path, name: str) -> TrainingRun:
    path = next((p for p in (place / "checkpoints" / BEST, place / BEST) if p.is_file()), None)
    if path is None:
        return TrainingRun(name)
    run = _read_checkpoint(path, path.stat().st_mtime_ns)
    return replace(run, name=name)


@cache  # the table of a sweep is rewritten after each of its runs
def _read_checkpoint(path: Path, changed: int) -> TrainingRun:
    """The run whose best checkpoint this is, as of the time of its last change."""
    state = load_checkpoint(path)
    try:
        options = dict(_flat(state["cfg"]))
        extra, history = state["extra_state"], state["optimizer_history"][-1]
        run = TrainingRun(
            "",
            options,
            str(options["checkpoint.best_checkpoint_metric"]),
            float(extra["val_loss"]),
            int(history["num_updates"]),
            int(extra["train_iterator"]["epoch"]),
            sum(tensor.numel() for tensor in state["model"].values()),
            greatest=bool(options["checkpoint.maximize_best_checkpoint_metric"]),
        )
    except (KeyError, TypeError, IndexError):
        raise InputError(f"{path}: not a checkpoint of a run with validation") from None
    if extra["train_iterator"].get("iterations_in_epoch") == 0:
        run.epoch -= 1  # saved at the end of one, it names the next
    place = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    run.figures = _figures(place / "tensorboard" / "valid", run.updates)
    return run


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in options:
        value = options[name]
        if hasattr(value, "keys"):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _figures(folder: Path, updates: int) -> dict[str, float]:
    """Validation figures at an update, from TensorBoard's files."""
    if not folder.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    known = events.Tags()["scalars"]
    found = {name: [e.value for e in events.Scalars(name) if e.step == updates] for name in SHOWN if name in known}
    return {name: values[-1] for name, values in found.items() if values}


def tabulate(runs: Sequence[TrainingRun]) -> str:
    """The runs as a table in Markdown, in the order given: their differing options, then their figures."""
    done = [run for run in runs if run.metric]
    names = dict.fromkeys(name for run in done for name in run.options)
    differing = [
        name
        for name in names
        if name.rsplit(".", 1)[-1] not in _PLACES and len({str(run.options.get(name)) for run in done}) > 1
    ]
    shown = [name for name in SHOWN if any(name in run.figures for run in done)]
    metric = done[0].metric if done else "best"
    rows = [["run", *differing, "parameters", metric, *shown, "update", "epoch"]]
    for run in runs:
        if not run.metric:
            rows.append([run.name, *[""] * len(differing), "", "no checkpoint", *[""] * len(shown), "", ""])
            continue
        figures = [f"{run.figures[name]:.4f}" if name in run.figures else "" for name in shown]
        options = [str(run.options.get(name, "")) for name in differing]
        rows.append(
            [run.name, *options, f"{run.parameters:,}", f"{run.best:.4f}", *figures, str(run.updates), str(run.epoch)]
        )
    rows.insert(1, ["---"] * len(rows[0]))
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)
