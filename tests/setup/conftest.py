"""A wheel and an editable wheel of the checkout, and bare environments to install them into; no network is used."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCES = ("setup.py", "pyproject.toml", "speechdlm_ext_bootstrap.py", "README.md", "LICENSE")


@dataclass
class Environment:
    """A virtual environment with nothing in it, or only pip."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """This environment's Python, away from the checkout and without the variables that change what it imports."""
        clean = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "PYTHONUTF8": "1", **(env or {})}
        command = [self.python, *arguments]
        return subprocess.run(command, cwd=self.folder, env=clean, capture_output=True, text=True, timeout=600)

    def pip(self, *arguments: str) -> None:
        done = self.run("-m", "pip", "--disable-pip-version-check", "--no-input", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}

    def add_package(self, name: str, code: str = "") -> None:
        """A stand-in for an installed package, so that the hook can be seen at work without fairseq."""
        (self.packages / f"{name}.py").write_text(code, encoding="utf-8")


@pytest.fixture(scope="session")
def source(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packed, so that building leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(checkout / "speechdlm_ext", folder / "speechdlm_ext", ignore=shutil.ignore_patterns("__pycache__"))
    for name in SOURCES:
        if (checkout / name).is_file():
            shutil.copy(checkout / name, folder)
    return folder


def _build(source: Path, kind: str) -> Path:
    code = f"from setuptools.build_meta import build_{kind}; print(build_{kind}('dist-{kind}'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return source / f"dist-{kind}" / done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def build() -> Callable[[Path, str], Path]:
    """``build(folder, "wheel")`` or ``"editable"``: what an installer has setuptools make, with this interpreter."""
    return _build


@pytest.fixture(scope="session")
def wheel(source: Path) -> Path:
    return _build(source, "wheel")


@pytest.fixture(scope="session")
def editable_wheel(source: Path) -> Path:
    """What an installer makes of ``-e .``, and then installs like any other wheel."""
    return _build(source, "editable")


@pytest.fixture
def make_environment(tmp_path: Path) -> Callable[..., Environment]:
    def make(with_pip: bool = False) -> Environment:
        folder = tmp_path / "environment"
        flags = [] if with_pip else ["--without-pip"]
        subprocess.run([sys.executable, "-m", "venv", *flags, folder], check=True, capture_output=True)
        return Environment(folder)

    return make


@pytest.fixture
def installed(make_environment: Callable[..., Environment], wheel: Path) -> Environment:
    """An environment with the package alone, none of its dependencies; unpacked, which is what installing comes to."""
    environment = make_environment()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(environment.packages)
    return environment
