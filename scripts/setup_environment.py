"""Make or bring up to date the virtual environment of the checkout; `make` runs it with the chosen interpreter.

It uses the standard library alone. The environment is made anew when its Python differs from the chosen one, brought up
to date when setup.py, pyproject.toml or constraints.txt have changed, and else left alone, which takes a moment.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
INPUTS = ("setup.py", "pyproject.toml", "constraints.txt", "scripts/setup_environment.py")
STAMP = "speechdlm_ext.json"
CONSTRAINTS = "constraints.txt"
PYTORCH_INDEX = "https://download.pytorch.org/whl/"
OLDEST_TORCH = (2, 6)  # the bound in setup.py
NEWEST_OLD_PIP = "pip<24.1"  # pip 24.1 refuses the metadata of omegaconf 2.0.6, `PyYAML (>=5.1.*)`, which fairseq needs
CUDA_SIZE = "about 3 GB to download, 5 GB on disk"


class SetupError(Exception):
    """A reason why there is no environment, in one line that says what to do."""


@dataclass
class Torch:
    """Which build of torch to install."""

    pin: str  # the version for the constraints file, for example "2.13.0+cpu"
    why: str
    index: str | None = None  # an index to look in besides the usual ones
    from_system: bool = False  # the chosen interpreter's own torch serves


@dataclass
class Base:
    """The interpreter that the environment stands on."""

    executable: str
    version: str
    prefix: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the environment, for example .venv")
    parser.add_argument(
        "--torch", default="", help="cpu, cu126, cu128, … (a folder of PyTorch's index), pypi, or system"
    )
    parser.add_argument("--uv", default="uv", help="uv's command; an empty one stands for pip")
    parser.add_argument("--wheel", type=Path, help="install this, without extras, instead of the checkout to work in")
    arguments = parser.parse_args()
    if not re.fullmatch(r"|[a-z]+[0-9.]*", arguments.torch):
        raise SetupError(f"TORCH={arguments.torch}: wanted is cpu, cu126, cu128, cu130, …, pypi, or system")
    folder = arguments.folder.absolute()
    with open(CHECKOUT / CONSTRAINTS, encoding="utf-8") as lock_file:
        _lock(lock_file.fileno())
        if not _is_current(folder, arguments.torch):
            package = [str(arguments.wheel.absolute())] if arguments.wheel else ["--editable", f"{CHECKOUT}[dev]"]
            _set_up(folder, arguments.torch, shutil.which(arguments.uv) if arguments.uv else None, package)


def _set_up(folder: Path, wish: str, uv: str | None, package: list[str]) -> None:
    base = _base()
    if not _fits(folder, base):
        _remove(folder)
    _say(f"setting up {folder.name} with Python {base.version} and {'uv' if uv else 'pip'}: one to five minutes")
    _check_compiler(folder)
    torch = _choose_torch(folder, base, wish)
    _say(f"torch {torch.pin}: {torch.why}")
    if torch.from_system:
        uv = None  # uv does not look at the packages of the interpreter below
    python = _make(folder, base, with_pip=uv is None, system=torch.from_system)
    constraints = _write_constraints(folder, torch)
    index = ["--extra-index-url", torch.index] if torch.index else []
    if uv:
        _install_with_uv(uv, python, constraints, [*index, *package])
    else:
        _install_with_pip(python, constraints, [*index, *package])
    stamp = {"inputs": _digest(), "version": base.version, "prefix": base.prefix, "folder": str(folder), "torch": wish}
    (folder / STAMP).write_text(json.dumps(stamp), encoding="utf-8")
    _say(f"{folder.name} is ready: Python {base.version}, torch {_installed_version(python, 'torch')}")


# -- is there anything to do? ---------------------------------------------------------------------------------------


def _base() -> Base:
    """The interpreter below, when we run inside a virtual environment."""
    executable = getattr(sys, "_base_executable", None) or sys.executable
    if sys.prefix != sys.base_prefix and executable == sys.executable:  # Python 3.10 does not tell
        executable = os.path.realpath(executable)
    return Base(executable, platform.python_version(), sys.base_prefix)


def _digest() -> str:
    return hashlib.sha256(b"\0".join((CHECKOUT / name).read_bytes() for name in INPUTS)).hexdigest()


def _stamp(folder: Path) -> dict[str, str]:
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _is_current(folder: Path, wish: str) -> bool:
    stamp, base = _stamp(folder), _base()
    wanted = {"inputs": _digest(), "version": base.version, "prefix": base.prefix, "folder": str(folder)}
    return wanted.items() <= stamp.items() and wish in ("", stamp.get("torch")) and _runs(folder)


def _runs(folder: Path) -> bool:
    python = _python_of(folder)
    return python.exists() and subprocess.run([python, "-I", "-c", ""], capture_output=True).returncode == 0


def _fits(folder: Path, base: Base) -> bool:
    """Whether the environment is of the same interpreter and was made here: bringing it up to date is then enough."""
    if not _runs(folder) or _stamp(folder).get("folder", str(folder)) != str(folder):
        return False
    shown = subprocess.run(
        [_python_of(folder), "-I", "-c", "import platform, sys; print(platform.python_version(), sys.base_prefix)"],
        capture_output=True,
        text=True,
    )
    return shown.stdout.strip() == f"{base.version} {base.prefix}"


def _remove(folder: Path) -> None:
    if not folder.exists():
        return
    if not (folder / "pyvenv.cfg").is_file() and any(folder.iterdir()):
        raise SetupError(f"{folder} is in the way: it is not a virtual environment; move it elsewhere")
    _say(f"{folder.name} is of another Python, of another place, or incomplete: it is made anew")
    shutil.rmtree(folder)


# -- which torch? ----------------------------------------------------------------------------------------------------


def _choose_torch(folder: Path, base: Base, wish: str) -> Torch:
    pinned = _pinned("torch")
    if wish == "pypi":
        return Torch(pinned, "the build of the package index, as TORCH=pypi says")
    if wish == "system":
        found = _installed_version(Path(base.executable), "torch")
        if not _is_new_enough(found):
            raise SetupError(
                f"TORCH=system: {base.executable} has torch {found or 'not at all'}, 2.6 or newer is wanted"
            )
        return Torch(found, f"that of {base.executable}, as TORCH=system says", from_system=True)
    if wish:
        return Torch(_local_version(pinned, wish), f"from {PYTORCH_INDEX}{wish}", PYTORCH_INDEX + wish)
    present = _installed_version(_python_of(folder), "torch")
    if _is_new_enough(present):
        return Torch(present, "installed already; TORCH=… make setup changes it", from_system=_sees_system(folder))
    present = _installed_version(Path(base.executable), "torch")
    if _is_new_enough(present):
        return Torch(present, f"the one of {base.executable}; TORCH=pypi make setup takes another", from_system=True)
    return _default_torch(pinned)


def _sees_system(folder: Path) -> bool:
    """Whether the environment was made to see the packages of the interpreter below."""
    try:
        return bool(re.search(r"(?m)^include-system-site-packages\s*=\s*true", (folder / "pyvenv.cfg").read_text()))
    except OSError:
        return False


def _default_torch(pinned: str) -> Torch:
    if sys.platform != "linux":
        return Torch(pinned, "the build of the package index")
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")
    if driver:
        return Torch(pinned, f"an NVIDIA driver is here, so the build with CUDA: {CUDA_SIZE}; TORCH=cpu avoids it")
    cpu, tag = _local_version(pinned, "cpu"), f"cp{sys.version_info[0]}{sys.version_info[1]}"
    for place in _find_links():
        if list(Path(place).glob(f"torch-{cpu}-{tag}-*{platform.machine()}.whl")):
            return Torch(cpu, f"no NVIDIA driver here, so the build for CPU, from {place}; TORCH=cu128 takes CUDA")
    if _reachable(f"{PYTORCH_INDEX}cpu/torch/"):
        why = f"no NVIDIA driver here, so the build for CPU, from {PYTORCH_INDEX}cpu; TORCH=cu128 takes CUDA"
        return Torch(cpu, why, PYTORCH_INDEX + "cpu")
    why = f"{PYTORCH_INDEX}cpu cannot be reached, so the package index's build, with CUDA: {CUDA_SIZE}; Ctrl-C stops"
    return Torch(pinned, why)


def _local_version(version: str, build: str) -> str:
    return version if sys.platform == "darwin" else f"{version}+{build}"


def _pinned(package: str) -> str:
    match = re.search(rf"(?m)^{package}==(\S+)", (CHECKOUT / CONSTRAINTS).read_text(encoding="utf-8"))
    assert match, f"{package} is not in {CONSTRAINTS}"
    return match[1]


def _installed_version(python: Path, package: str) -> str:
    """The version of ``package`` that ``python`` would import, or "" when it has none."""
    if not python.exists():
        return ""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True).stdout.strip()


def _is_new_enough(version: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= OLDEST_TORCH


def _find_links() -> list[str]:
    """The folders of wheels that pip is told of, in its configuration or by the environment; uv reads neither."""
    links = os.environ.get("UV_FIND_LINKS", "").replace(",", " ").split()
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        if name.endswith(".find-links"):
            links += str(ast.literal_eval(value)).split()
    links += os.environ.get("PIP_FIND_LINKS", "").split()
    return list(dict.fromkeys(links))


def _reachable(address: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=8):
            return True
    except (urllib.error.URLError, OSError, ValueError):
        return False


# -- making it -------------------------------------------------------------------------------------------------------


def _check_compiler(folder: Path) -> None:
    """fairseq has to be compiled on Python 3.10 and later; say so before minutes of downloads end in a long error."""
    if _installed_version(_python_of(folder), "fairseq"):
        return
    wanted = [(os.environ.get(name) or sysconfig.get_config_var(name) or "c++").split()[0] for name in ("CC", "CXX")]
    missing = [command for command in wanted if not shutil.which(command)]
    if missing:
        raise SetupError(
            f"fairseq is built from source and {' and '.join(missing)} is missing: install a C++ compiler"
            " (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++)"
        )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise SetupError(
            f"fairseq is built from source and Python.h of Python {platform.python_version()} is missing: install it"
            f" (Debian, Ubuntu: apt install python3.{sys.version_info[1]}-dev; Fedora: dnf install python3-devel)"
        )


def _make(folder: Path, base: Base, with_pip: bool, system: bool) -> Path:
    python = _python_of(folder)
    if python.exists() and system and not _sees_system(folder):
        shutil.rmtree(folder)
    if with_pip and not _has("ensurepip"):
        raise SetupError(
            f"{base.executable} cannot make environments with pip: install uv, or Debian's python3-venv package"
        )
    if not python.exists() or (with_pip and not _installed_version(python, "pip")):
        command = [base.executable, "-m", "venv", str(folder)]
        command += ["--system-site-packages"] if system else []
        made = subprocess.run(command + ([] if with_pip else ["--without-pip"]), capture_output=True, text=True)
        if made.returncode:
            raise SetupError(f"{' '.join(command)}: {' '.join((made.stderr or made.stdout).split())[-300:]}")
    return python


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def _write_constraints(folder: Path, torch: Torch) -> Path:
    """The versions of constraints.txt with the chosen torch, and the torchaudio that goes with it."""
    audio = _pinned("torchaudio")
    major, minor = (int(number) for number in torch.pin.split(".")[:2])
    if (major, minor) < tuple(int(number) for number in audio.split(".")[:2]):
        audio = f"{major}.{minor}.*"  # up to torch 2.10 each torchaudio belonged to one torch
    path = folder / CONSTRAINTS
    lines = (CHECKOUT / CONSTRAINTS).read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not re.match(r"(torch|torchaudio)==|\s*#", line)]
    path.write_text("\n".join([f"torch=={torch.pin}", f"torchaudio=={audio}", *kept, ""]), encoding="utf-8")
    return path


def _install_with_uv(uv: str, python: Path, constraints: Path, wanted: list[str]) -> None:
    command = [uv, "pip", "install", "--python", str(python), "--constraints", str(constraints)]
    command += ["--build-constraints", str(constraints)]
    command += ["--compile-bytecode"]  # as pip does: else each of many short commands may have to compile torch
    command += ["--index-strategy", "unsafe-best-match"]  # as pip does: an index for torch alone hides no other
    for place in _find_links():
        command += ["--find-links", place]
    _run([*command, *wanted])


def _install_with_pip(python: Path, constraints: Path, wanted: list[str]) -> None:
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    version = re.match(r"(\d+)\.(\d+)", _installed_version(python, "pip"))
    if version is None or (int(version[1]), int(version[2])) >= (24, 1):
        _run([*pip, "install", "--quiet", NEWEST_OLD_PIP])
    # By the environment, not by -c: so it holds for the packages that are built from source, too.
    os.environ["PIP_CONSTRAINT"] = constraints.as_uri()
    if _sees_system(python.parents[1]):
        # A fairseq of the interpreter below would do, but its commands would not be in this environment.
        _run([*pip, "install", "--ignore-installed", "--no-deps", "fairseq"])
    _run([*pip, "install", *wanted])


def _run(command: list[str]) -> None:
    status = subprocess.run(command, cwd=CHECKOUT).returncode
    if status:
        raise SetupError(f"status {status} from: {' '.join(command)}")


def _lock(handle: int) -> None:
    """Let a second `make` wait; file systems that cannot lock go without."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass


def _say(message: str) -> None:
    print(f"setup: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except (SetupError, OSError) as error:
        _say(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        _say("interrupted; the next make goes on")
        sys.exit(130)
