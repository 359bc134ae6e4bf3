"""scripts/setup_environment.py: which torch it takes and says so, and when it has anything to do."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NOBODY = "http://127.0.0.1:9"  # the port "discard", where nothing answers
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(checkout: Path, tmp_path: Path) -> Run:
    """``run("--torch", …, links=folder)``: the script, without torch, GPU, network or pip's configuration."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)

    def run(*options: str, links: Path | None = None, path: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        # The environment that the script is started from is no matter: what counts is the interpreter below.
        environment = {"PATH": path or os.environ["PATH"], "HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull, **more}
        if links:
            environment["PIP_FIND_LINKS"] = str(links)
        command = [bare / "bin" / "python", checkout / "scripts" / "setup_environment.py", tmp_path / "environment"]
        command += ["--uv", "", "--pytorch-index", NOBODY, *options]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    return run


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """An index of packages that answers."""
    (tmp_path / "index" / "cpu" / "torch").mkdir(parents=True)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "index"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def pinned(checkout: Path) -> str:
    (version,) = re.findall(r"(?m)^torch==(\S+)", (checkout / "constraints.txt").read_text())
    return str(version)


@pytest.fixture(autouse=True)
def no_torch_below() -> None:
    base = os.path.realpath(sys.executable)
    if subprocess.run([base, "-I", "-c", "import torch"], capture_output=True).returncode == 0:
        pytest.skip("the interpreter below has a torch of its own, which would be taken")


def _choice(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """The version and the reason that the script gives."""
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    chosen = re.fullmatch(r"setup: torch (\S+): (.+)", line)
    assert chosen, line
    return chosen[1], chosen[2]


def test_without_a_driver_the_build_for_cpu_comes_from_pytorchs_index(run: Run, index: str, pinned: str) -> None:
    version, why = _choice(run("--dry-run", "--pytorch-index", index))
    assert version == f"{pinned}+cpu" and f"{index}/cpu" in why and "TORCH=cu128" in why


def test_a_wheel_at_hand_is_taken_before_any_index(run: Run, index: str, pinned: str, tmp_path: Path) -> None:
    links = tmp_path / "wheels"
    links.mkdir()
    tag = f"cp3{sys.version_info[1]}"
    (links / f"torch-{pinned}+cpu-{tag}-{tag}-manylinux_2_28_{platform.machine()}.whl").touch()
    version, why = _choice(run("--dry-run", "--pytorch-index", index, links=links))
    assert version == f"{pinned}+cpu" and str(links) in why and index not in why


def test_several_gigabytes_are_announced(run: Run, pinned: str, tmp_path: Path) -> None:
    version, why = _choice(run("--dry-run"))
    assert version == pinned and "GB" in why and "Ctrl-C" in why and "cannot be reached" in why
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "nvidia-smi").write_text("#!/bin/sh\n")
    (commands / "nvidia-smi").chmod(0o755)
    version, why = _choice(run("--dry-run", path=f"{commands}:{os.environ['PATH']}"))
    assert version == pinned and "NVIDIA" in why and "GB" in why and "TORCH=cpu" in why


@pytest.mark.parametrize(
    ("wish", "build"), [("cpu", "+cpu"), ("cu128", "+cu128"), ("rocm6.4", "+rocm6.4"), ("pypi", "")]
)
def test_a_wish_is_granted(run: Run, pinned: str, wish: str, build: str) -> None:
    version, why = _choice(run("--dry-run", "--torch", wish))
    assert version == pinned + build
    assert f"{NOBODY}/{wish}" in why if build else "TORCH=pypi" in why


def test_an_environment_is_left_alone_until_something_changes(checkout: Path, tmp_path: Path) -> None:
    """In a copy of the checkout's set-up, whose inputs can be changed."""
    source = tmp_path / "checkout"
    (source / "scripts").mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "constraints.txt", "scripts/setup_environment.py"):
        shutil.copy(checkout / name, source / name)
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    below = [str(python), "-I", "-c", "import json, platform, sys; print(json.dumps([platform.python_version(), "]
    below[-1] += "sys.base_prefix]))"
    version, prefix = json.loads(subprocess.run(below, capture_output=True, text=True, check=True).stdout)

    def again(*options: str) -> list[str]:
        command = [sys.executable, source / "scripts" / "setup_environment.py", environment, "--dry-run", *options]
        done = subprocess.run([*command, "--pytorch-index", NOBODY], capture_output=True, text=True, check=True)
        return done.stderr.splitlines()

    inputs = [(source / name).read_bytes() for name in ("pyproject.toml", "setup.py", "constraints.txt")]
    inputs.append((source / "scripts" / "setup_environment.py").read_bytes())
    stamp = {"python": version, "prefix": prefix, "folder": str(environment), "torch": "cpu"}
    stamp["inputs"] = hashlib.sha256(b"\0".join(inputs)).hexdigest()
    (environment / "speechdlm_ext.json").write_text(json.dumps(stamp))
    assert again() == again("--torch", "cpu") == []
    assert len(again("--torch", "cu128")) == 1
    moved = environment.rename(tmp_path / "moved")  # its commands name the old place in their first lines
    assert len(again()) == 1
    moved.rename(environment)
    assert again() == []
    (environment / "speechdlm_ext.json").write_text(json.dumps({**stamp, "python": "3.99.0"}))
    assert len(again()) == 1
    (environment / "speechdlm_ext.json").write_text(json.dumps(stamp))
    (source / "constraints.txt").write_text("torch==2.13.0\n")
    assert len(again()) == 1


def test_a_folder_that_is_no_environment_is_not_removed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "thesis.txt").write_text("mine")
    done = run("--torch", "pypi")
    assert done.returncode == 2 and "is not a virtual environment" in done.stderr.splitlines()[-1]
    assert (tmp_path / "environment" / "thesis.txt").is_file()


def test_a_wrong_torch_and_a_missing_compiler_are_one_line(run: Run, tmp_path: Path) -> None:
    done = run("--torch", "gpu please")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "TORCH=gpu please" in done.stderr
    done = run("--torch", "pypi", path=str(tmp_path), CC="no-cc", CXX="no-c++")
    assert done.returncode == 2 and "no-cc and no-c++ is missing" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "environment").exists()
