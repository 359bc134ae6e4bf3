"""Start of the interpreter without and with our .pth file, which every Python of the environment runs.

Two bare environments are made in a temporary folder, one with the wheel unpacked into it, so that nothing else in the
present environment weighs on the figures.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from benchmarks.comparison import Comparison, in_turns, seconds
from benchmarks.sides import Settings

CHECKOUT = Path(__file__).resolve().parents[2]
ROUNDS = 60
BOUND_MS = 5.0


def measure(settings: Settings) -> list[Comparison]:
    """Milliseconds from start to end of an interpreter that does nothing."""
    with tempfile.TemporaryDirectory() as folder:
        without, having = (_environment(Path(folder, name)) for name in ("without", "with"))
        with zipfile.ZipFile(_wheel(Path(folder))) as wheel:
            wheel.extractall(next(having.parents[1].glob("lib/python*/site-packages")))
        baseline, ours = in_turns(lambda: _start(without), lambda: _start(having), settings.rounds or ROUNDS, warm_up=5)
    bound = f"at most {BOUND_MS:g} ms more"
    keeps = lambda before, after: after - before <= BOUND_MS  # noqa: E731
    return [Comparison("startup", baseline, ours, "ms", bound=bound, keeps=keeps)]


def _environment(folder: Path) -> Path:
    venv.create(folder, symlinks=True)
    return folder / "bin" / "python"


def _wheel(folder: Path) -> Path:
    """Build the wheel from a copy, so that no build folder is left in the checkout."""
    from shutil import copy, copytree, ignore_patterns

    source = folder / "source"
    # What other processes compile meanwhile comes and goes.
    copytree(CHECKOUT / "speechdlm_ext", source / "speechdlm_ext", ignore=ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "speechdlm_ext_bootstrap.py", "README.md", "LICENSE"):
        if (CHECKOUT / name).is_file():
            copy(CHECKOUT / name, source)
    code = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    return next(source.glob("dist/*.whl"))


def _start(python: Path) -> float:
    return 1000 * seconds(lambda: subprocess.run([python, "-c", "pass"], check=True))
