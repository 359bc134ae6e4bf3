"""Make or bring up to date the virtual environment of the checkout; `make` runs it with the chosen interpreter.

It uses the standard library alone. The environment is made anew when its Python differs from the chosen one, brought up
to date when pyproject.toml, setup.py or constraints.txt have changed, and else left alone, which takes a moment.
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
import urllib.request
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
INPUTS = ("pyproject.toml", "setup.py", "constraints.txt", "scripts/setup_environment.py")
STAMP = "speechdlm_ext.json"
PYTORCH_INDEX = "https://download.pytorch.org/whl"
OLDEST_TORCH = (2, 6)  # the bound in pyproject.toml
CUDA_SIZE = "about 3 GB to download, 5 GB on disk"


class SetupError(Exception):
    """A reason why there is no environment, in one line that says what to do."""


@dataclass
class Torch:
    """Which build of torch to install, and why."""

    pin: str  # for example "2.13.0+cpu"
    why: str
    index: str | None = None  # an index to look in besides the usual ones
    from_system: bool = False  # the chosen interpreter's own torch serves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the environment, for example .venv")
    parser.add_argument("--torch", default="", help="cpu, cu126, cu128, … (of PyTorch's index), pypi, or system")
    parser.add_argument("--uv", default="uv", help="uv's command; an empty one stands for pip")
    parser.add_argument("--wheel", type=Path, help="install this, without extras, instead of the checkout to work in")
    parser.add_argument("--pytorch-index", default=PYTORCH_INDEX, help="PyTorch's index, or a mirror of it")
    parser.add_argument("--dry-run", action="store_true", help="only say which torch would be installed, and why")
    args = parser.parse_args()
    if not re.fullmatch(r"|[a-z]+[0-9.]*", args.torch):
        raise SetupError(f"TORCH={args.torch}: expected cpu, cu126, cu128, cu130, …, pypi, or system")
    folder = args.folder.absolute()
    with open(CHECKOUT / "constraints.txt", encoding="utf-8") as constraints:
        _lock(constraints.fileno())
        digest = hashlib.sha256(b"\0".join((CHECKOUT / name).read_bytes() for name in INPUTS)).hexdigest()
        here = {"python": platform.python_version(), "prefix": sys.base_prefix, "folder": str(folder)}
        stamp = _stamp(folder)
        fits = here.items() <= stamp.items() and version_of(_python_of(folder), "pip") != ""
        if fits and stamp.get("inputs") == digest and args.torch in ("", stamp.get("torch")):
            return
        torch = _choose_torch(folder if fits else None, args.torch, args.pytorch_index)
        _say(f"torch {torch.pin}: {torch.why}")
        if args.dry_run:
            return
        uv = shutil.which(args.uv) if args.uv and not torch.from_system else None  # uv sees no system packages
        _say(f"setting up {folder.name} with Python {here['python']} and {'uv' if uv else 'pip'}: one to five minutes")
        _check_compiler(_python_of(folder))
        python = make_environment(
            folder, keep=fits and torch.from_system == _sees_system(folder), system=torch.from_system
        )
        package = [str(args.wheel.absolute())] if args.wheel else ["--editable", f"{CHECKOUT}[dev]"]
        _install(uv, python, torch, constraints.read(), package)
        stamp = {**here, "inputs": digest, "torch": args.torch}
        (folder / STAMP).write_text(json.dumps(stamp), encoding="utf-8")
    _say(f"{folder.name} is ready: Python {here['python']}, torch {version_of(python, 'torch')}")


def _choose_torch(folder: Path | None, wish: str, index: str) -> Torch:
    pinned = re.findall(r"(?m)^torch==(\S+)", (CHECKOUT / "constraints.txt").read_text(encoding="utf-8"))[0]
    base = Path(base_interpreter())
    if wish == "pypi":
        return Torch(pinned, "the build of the package index, as TORCH=pypi says")
    if wish not in ("", "system"):
        return Torch(
            f"{pinned}+{wish}" if sys.platform != "darwin" else pinned, f"from {index}/{wish}", f"{index}/{wish}"
        )
    own = "" if wish or folder is None else version_of(_python_of(folder), "torch")
    if folder is not None and _is_new_enough(own):
        return Torch(own, "installed already; TORCH=… make setup changes it", from_system=_sees_system(folder))
    own = version_of(base, "torch")
    if _is_new_enough(own):
        return Torch(own, f"that of {base}; TORCH=pypi make setup takes another", from_system=True)
    if wish == "system":
        raise SetupError(f"TORCH=system: {base} has torch {own or 'not at all'}, 2.6 or newer is expected")
    if sys.platform != "linux":
        return Torch(pinned, "the build of the package index")
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        return Torch(pinned, f"an NVIDIA driver is here, so the build with CUDA: {CUDA_SIZE}; TORCH=cpu avoids it")
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    for place in find_links():
        if list(Path(place).glob(f"torch-{pinned}+cpu-{tag}-*{platform.machine()}.whl")):
            why = f"no NVIDIA driver here, so the build for CPU, from {place}; TORCH=cu128 takes CUDA"
            return Torch(f"{pinned}+cpu", why)
    try:
        urllib.request.urlopen(urllib.request.Request(f"{index}/cpu/torch/", method="HEAD"), timeout=8).close()
    except (OSError, ValueError):
        why = f"{index}/cpu cannot be reached, so the package index's build, with CUDA: {CUDA_SIZE}; Ctrl-C stops"
        return Torch(pinned, why)
    why = f"no NVIDIA driver here, so the build for CPU, from {index}/cpu; TORCH=cu128 takes CUDA"
    return Torch(f"{pinned}+cpu", why, f"{index}/cpu")


def make_environment(folder: Path, keep: bool, system: bool) -> Path:
    """Return the environment's Python; ``keep`` what is there, or make it anew; ``system``: with the packages below."""
    if not keep:
        if folder.exists() and not (folder / "pyvenv.cfg").is_file() and any(folder.iterdir()):
            raise SetupError(f"{folder} is in the way: it is not a virtual environment; move it elsewhere")
        command = [base_interpreter(), "-m", "venv", "--clear", str(folder)]
        made = subprocess.run([*command, *(["--system-site-packages"] * system)], capture_output=True, text=True)
        if made.returncode:  # Debian's Python lacks ensurepip
            reason = " ".join((made.stderr or made.stdout).split())[-300:]
            raise SetupError(f"{' '.join(command)}: {reason}; Debian, Ubuntu: apt install python3-venv")
    return _python_of(folder)


def _install(uv: str | None, python: Path, torch: Torch, constraints: str, package: list[str]) -> None:
    audio = re.findall(r"(?m)^torchaudio==(\S+)", constraints)[0]
    minor = re.match(r"(\d+)\.(\d+)", torch.pin)
    if minor and (int(minor[1]), int(minor[2])) < tuple(map(int, audio.split(".")[:2])):
        audio = f"{minor[0]}.*"  # up to torch 2.10 each torchaudio belonged to one torch
    kept = [line for line in constraints.splitlines() if not re.match(r"(torch|torchaudio)==|\s*#", line)]
    path = python.parents[1] / "constraints.txt"
    path.write_text("\n".join([f"torch=={torch.pin}", f"torchaudio=={audio}", *kept, ""]), encoding="utf-8")
    index = ["--extra-index-url", torch.index] if torch.index else []
    if uv:
        # As pip does: modules are compiled, and an index for torch alone hides no other.
        command = [uv, "pip", "install", "--python", str(python), "--compile-bytecode"]
        command += ["--index-strategy", "unsafe-best-match"]
        command += [f"--{kind}={path}" for kind in ("constraints", "build-constraints")]
        command += [f"--find-links={place}" for place in find_links()]
    else:
        # By the environment, not by -c: so it holds for the packages that are built from source, too.
        os.environ["PIP_CONSTRAINT"] = path.as_uri()
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install"]
        command = pip
        # pip 24.1 refuses the metadata of omegaconf 2.0.6, `PyYAML (>=5.1.*)`, which fairseq needs.
        _run([*pip, "--quiet", "pip<24.1"])
        if torch.from_system:  # a fairseq of the interpreter below would do, but its commands would not be here
            _run([*pip, "--ignore-installed", "--no-deps", "fairseq"])
    _run([*command, *index, *package])


def _check_compiler(python: Path) -> None:
    """fairseq has to be compiled on Python 3.10 and later; say so before minutes of downloads end in a long error."""
    needed = [(os.environ.get(name) or sysconfig.get_config_var(name) or "c++").split()[0] for name in ("CC", "CXX")]
    missing = [command for command in needed if not shutil.which(command)]
    missing += [] if Path(sysconfig.get_path("include"), "Python.h").is_file() else ["Python.h"]
    if missing and not version_of(python, "fairseq"):
        raise SetupError(
            f"fairseq is built from source and {' and '.join(missing)} is missing: install a C++ compiler and Python's "
            f"headers (Debian, Ubuntu: apt install g++ python3.{sys.version_info[1]}-dev; Fedora: dnf install gcc-c++ "
            "python3-devel)"
        )


def find_links() -> list[str]:
    """The folders of wheels that pip is told of, in its configuration or by the environment; uv reads neither."""
    links = os.environ.get("UV_FIND_LINKS", "").replace(",", " ").split()
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    for name, _, value in (line.partition("=") for line in listed.splitlines()):
        links += str(ast.literal_eval(value)).split() if name.endswith(".find-links") else []
    return list(dict.fromkeys([*links, *os.environ.get("PIP_FIND_LINKS", "").split()]))


def base_interpreter() -> str:
    """The interpreter below, when we run inside a virtual environment."""
    executable = getattr(sys, "_base_executable", None) or sys.executable
    inside = sys.prefix != sys.base_prefix and executable == sys.executable  # Python 3.10 does not tell
    return os.path.realpath(executable) if inside else executable


def _python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def version_of(python: Path, package: str) -> str:
    """The version of ``package`` that ``python`` would import, or "" when it has none."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    try:
        return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _is_new_enough(version: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= OLDEST_TORCH


def _sees_system(folder: Path) -> bool:
    """Whether the environment was made to see the packages of the interpreter below."""
    return bool(re.search(r"(?m)^include-system-site-packages\s*=\s*true", (folder / "pyvenv.cfg").read_text()))


def _stamp(folder: Path) -> dict[str, str]:
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _lock(handle: int) -> None:
    """Let a second `make` wait; file systems that cannot lock go without."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass


def _run(command: list[str]) -> None:
    status = subprocess.run(command, cwd=CHECKOUT).returncode
    if status:
        raise SetupError(f"status {status} from: {' '.join(command)}")


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
