"""``python -m speechdlm_ext``: what is installed, which repairs are in force, and the folder for ``--user-dir``."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from speechdlm_ext import compat
from speechdlm_ext.errors import one_line, run_command

USER_DIR = Path(__file__).resolve().parent


def main() -> None:
    """Print the report, or only the folder, or only the version."""
    parser = argparse.ArgumentParser(prog="python -m speechdlm_ext", description="What is installed here.")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--user-dir", action="store_true", help='the folder alone: fairseq-train --user-dir "$(…)"')
    only.add_argument("--version", action="store_true", help="the version alone")
    arguments = parser.parse_args()
    if arguments.user_dir:
        print(USER_DIR)
    elif arguments.version:
        print(_version("speechdlm_ext") or "not installed")
    else:
        print("\n".join(report()))


def report() -> list[str]:
    """The lines of the report. torch, torchaudio and fairseq are imported, so that a fault of theirs shows here."""
    logging.disable(logging.INFO)  # fairseq logs every optional package that it does not find
    rows = [
        ("speechdlm_ext", _version("speechdlm_ext") or "not installed: the commands of fairseq are not repaired"),
        ("--user-dir", str(USER_DIR)),
        ("Python", f"{platform.python_version()}, {sys.executable}"),
        *((package, _state(package)) for package in ("torch", "torchaudio", "fairseq")),
        *((package, _version(package) or "not installed") for package in ("hydra-core", "omegaconf", "numpy")),
        ("devices", _devices()),
    ]
    lines = [f"{name:<14} {value}" for name, value in rows]
    repairs = compat.report()
    in_force = sum(state == "in force" for _, state in repairs)
    lines += ["", f"Repairs in force here: {in_force} of {len(repairs)}"]
    for package in dict.fromkeys(repair.package for repair, _ in repairs):
        lines.append(f"  {package}")
        for repair, state in repairs:
            if repair.package == package:
                mark, why = ("x" if state == "in force" else " "), (f"; {state}" if state.startswith("skipped") else "")
                lines.append(f"    [{mark}] {repair.name} ({repair.versions}): {repair.fault}{why}")
    return lines


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _state(package: str) -> str:
    """The version of ``package``, and in one line why it cannot be imported when that is so."""
    try:
        importlib.import_module(package)
    except Exception as error:
        return f"{_version(package) or 'not installed'}: cannot be imported ({type(error).__name__}: {one_line(error)})"
    return _version(package) or "not installed as a package, but it can be imported"


def _devices() -> str:
    try:
        import torch
    except Exception:
        return "unknown without torch"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [f"CPU ({cores} cores, {torch.get_num_threads()} threads)"]
    found += [f"cuda:{number} {torch.cuda.get_device_name(number)}" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return ", ".join(found)


if __name__ == "__main__":
    run_command(main)
