"""Run the battery of fairseq commands on each Python 3.10 to 3.13 that is installed; `make test-all` is this.

Each Python has its own environment in .venvs/, made and kept up to date like .venv. What follows `--` goes to pytest.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
from pathlib import Path

from speechdlm_ext.errors import InputError, run_command

CHECKOUT = Path(__file__).resolve().parents[1]
MINORS = (10, 11, 12, 13)


def main() -> int:
    """Run what was asked for, print a line for each Python; status 1 when one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", default="", help="as for scripts/setup_environment.py")
    parser.add_argument("--uv", default="uv", help="as for scripts/setup_environment.py")
    parser.add_argument("pytest", nargs="*", default=[], help="arguments for pytest; the battery when there are none")
    arguments = parser.parse_args()
    found = {minor: _find(minor, arguments.uv) for minor in MINORS}
    if not any(found.values()):
        raise InputError("none of python3.10 to python3.13 is installed")
    results = []
    for minor, python in found.items():
        start = time.monotonic()
        outcome = _test(python, minor, arguments) if python else "not installed"
        results.append(f"Python 3.{minor:<3} {outcome:<16} {time.monotonic() - start:6.0f} s")
        print(f"==== {results[-1]}", flush=True)
    print("\n".join(["", *results]))
    return 1 if any("fail" in result for result in results) else 0


def _test(python: str, minor: int, arguments: argparse.Namespace) -> str:
    folder = CHECKOUT / ".venvs" / f"python3.{minor}"
    print(f"==== Python 3.{minor}: {python}", flush=True)
    set_up = [python, str(CHECKOUT / "scripts" / "setup_environment.py"), str(folder)]
    if subprocess.run([*set_up, "--torch", arguments.torch, "--uv", arguments.uv]).returncode:
        return "set-up failed"
    tests = arguments.pytest or ["tests/battery"]
    done = subprocess.run([folder / "bin" / "python", "-m", "pytest", *tests], cwd=CHECKOUT)
    return "passed" if done.returncode == 0 else "tests failed"


def _find(minor: int, uv: str) -> str | None:
    """A command that runs this Python: on the path, else one of pyenv's, else one that uv knows of, else None."""
    name = f"python3.{minor}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [name, *map(str, sorted(pyenv.glob(f"3.{minor}.*/bin/{name}"), reverse=True))]
    if shutil.which(uv):
        known = subprocess.run([uv, "python", "find", "--no-project", f"3.{minor}"], capture_output=True, text=True)
        candidates.append(known.stdout.strip())
    check = f"import sys; sys.exit(sys.version_info[:2] != (3, {minor}))"
    for candidate in filter(shutil.which, candidates):
        if subprocess.run([candidate, "-I", "-c", check], capture_output=True).returncode == 0:
            return candidate
    return None


if __name__ == "__main__":
    run_command(main)
