"""Run a command as an array of SLURM jobs, see what became of it, and do again what failed."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from speechdlm_ext.cluster.grids import cell_name, grid_cells
from speechdlm_ext.errors import InputError, run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m speechdlm_ext.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="16 jobs with --shard 0/16 to 15/16, then the merge; and a job for each combination of a grid:\n"
        "  submit --tasks 16 --then 'python data_prep/merge_manifest.py m.json --in-place' --\n"
        "      python scripts/transcribe.py m.json --in-place --asr …\n"
        "  submit --grid model.dropout=0.1,0.2 --output runs -- fairseq-hydra-train …",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    start = actions.add_parser("submit", help="queue a command as an array of jobs")
    what = start.add_mutually_exclusive_group(required=True)
    what.add_argument("--tasks", type=int, metavar="N", help="parts: the command gets --shard I/N")
    what.add_argument(
        "--grid", nargs="+", metavar="NAME=VALUE,…", help="a job for each combination, whose words the command gets"
    )
    start.add_argument("--output", type=Path, help="of a grid: folder with one of each combination (hydra.run.dir)")
    start.add_argument("--then", metavar="COMMAND", help="runs when all tasks have succeeded (afterok)")
    start.add_argument("--logs", type=Path, default=Path("logs"), help="gets a folder (default: %(default)s)")
    start.add_argument("--name", help="of the jobs (default: the command's)")
    start.add_argument("--parallel", type=int, default=256, help="tasks that run at once (default: %(default)s)")
    start.add_argument("--time", type=int, default=720, metavar="MINUTES", help="limit; the task is queued again then")
    start.add_argument("--gpus", type=int, default=0, help="of a task (default: %(default)s)")
    start.add_argument("--cpus", type=int, default=1, help="of a task (default: %(default)s)")
    start.add_argument("--memory", type=float, metavar="GB", help="of a task (default: the cluster's)")
    start.add_argument("--partition", help="(default: the cluster's)")
    start.add_argument("--sbatch", nargs="+", default=[], metavar="OPTION=VALUE", help="others: account=lab qos=long")
    start.add_argument("command", nargs=argparse.REMAINDER, help="after --")
    for name, text in (("status", "what became of the tasks"), ("resubmit", "queue those that failed again")):
        action = actions.add_parser(name, help=text)
        action.add_argument("folder", type=Path, nargs="?", help="of the submission (default: the newest in logs)")
        action.add_argument("--logs", type=Path, default=Path("logs"), help=argparse.SUPPRESS)
    cell = actions.add_parser("cell", help="print the words of one combination of a grid, one a line")
    cell.add_argument("number", type=int, help="from 0")
    cell.add_argument("output", type=Path, help="folder with one of each combination (hydra.run.dir)")
    cell.add_argument("grid", nargs="+", metavar="NAME=VALUE,…")
    return parser


def main() -> int:
    """Run the command."""
    options = get_parser().parse_args()
    if options.action == "cell":
        cells = grid_words(options.grid, options.output)
        if not 0 <= options.number < len(cells):
            raise InputError(f"task {options.number}: the grid has {len(cells)} cells: --array=0-{len(cells) - 1}")
        print("\n".join(cells[options.number]))
        return 0
    from speechdlm_ext.cluster.jobs import Submission, new_submission, states, submit

    if options.action == "submit":
        submission = new_submission(
            commands(options), resources(options), shlex.split(options.then or ""), options.logs, job_name(options)
        )
        submit(submission, range(len(submission.commands)))
        print(f"{len(submission.commands)} tasks: job {submission.jobs[0].partition('_')[0]}")
        if submission.merge:
            print(f"then, when all have succeeded: job {submission.merge}")
        print(f"python -m speechdlm_ext.cluster status {submission.folder}")
        return 0
    submission = Submission.load(options.folder or newest(options.logs))
    found = states(submission)
    failed = [one for one in found if one.state == "failed"]
    if options.action == "resubmit":
        again = [int(one.name) for one in failed if one.name != "then"]
        if not again:
            print("no task has failed")
            return 0
        submit(submission, again)
        print(f"tasks {', '.join(map(str, again))}: job {submission.jobs[again[0]].partition('_')[0]}")
        return 0
    counts = {state: sum(one.state == state for one in found) for state in dict.fromkeys(one.state for one in found)}
    print(f"{submission.folder}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    for one in failed:
        print(f"task {one.name} failed: " + one.why.replace("\n", "\n    "))
        if one.log is not None:
            print(f"    {one.log}")
    if failed:
        print(f"python -m speechdlm_ext.cluster resubmit {submission.folder}")
    return 1 if failed else 0


def commands(options: argparse.Namespace) -> list[list[str]]:
    """The command of each task."""
    words = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not words:
        raise InputError("submit: expected a command after --")
    if options.tasks is None:
        return [[*words, *cell] for cell in grid_words(options.grid, options.output)]
    if options.tasks < 1:
        raise InputError(f"--tasks {options.tasks}: 1 or more is expected")
    if any(word.partition("=")[0] == "--shard" for word in words):
        raise InputError("the command has a --shard: omit it, each task gets its own")
    return [[*words, "--shard", f"{task}/{options.tasks}"] for task in range(options.tasks)]


def grid_words(grid: list[str], output: Path | None) -> list[list[str]]:
    """The words of each cell, with a folder for each of them where there is an output."""
    cells = grid_cells(grid)
    return [[*cell, *([f"hydra.run.dir={output / cell_name(cell, grid)}"] if output else [])] for cell in cells]


def resources(options: argparse.Namespace) -> dict[str, Any]:
    """What a task needs, as submitit takes it."""
    pairs = [item.partition("=") for item in options.sbatch]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise InputError(f"--sbatch {wrong[0]}: expected OPTION=VALUE")
    found = {
        "name": job_name(options),
        "timeout_min": options.time,
        "cpus_per_task": options.cpus,
        "slurm_array_parallelism": options.parallel,
        "slurm_additional_parameters": {name: value for name, _, value in pairs},
    }
    given = {"slurm_partition": options.partition, "mem_gb": options.memory, "gpus_per_node": options.gpus}
    return found | {name: value for name, value in given.items() if value}


def job_name(options: argparse.Namespace) -> str:
    """The name given, or that of the script."""
    words = [word for word in options.command if word not in ("--", "python", "python3", "-m")]
    return str(options.name or Path(words[0] if words else "job").stem)


def newest(logs: Path) -> Path:
    """The folder of the last submission."""
    from speechdlm_ext.cluster.jobs import RECORD

    found = sorted(logs.glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"{logs}: nothing was submitted from here; name the folder that submit has named")
    return found[-1].parent


if __name__ == "__main__":
    sys.argv[0] = "cluster"
    run_command(main)
