"""The .pth file comes with the package, by wheel and by editable install, and goes with it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

PTH = "speechdlm_ext.pth"
OURS = "import sys; print(sorted(name for name in sys.modules if name.startswith('speechdlm_ext')))"


@pytest.mark.parametrize("kind", ["wheel", "editable_wheel"])
def test_the_pth_file_is_in_the_wheel_and_in_its_record(kind, request):
    with zipfile.ZipFile(request.getfixturevalue(kind)) as archive:
        names = archive.namelist()
        content = archive.read(PTH)
        (record,) = (name for name in names if name.endswith(".dist-info/RECORD"))
        rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(archive.read(record).decode()))}
    assert names.count(PTH) == 1
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    assert rows[PTH] == [f"sha256={digest}", str(len(content))]
    assert set(names) == set(rows)
    assert content.startswith(b"import ") and content.count(b"\n") == 1  # what `site` runs is one line


def test_every_package_of_the_checkout_is_in_the_wheel(wheel, source):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("speechdlm_ext/")}
    assert packed == {str(path.relative_to(source)) for path in source.glob("speechdlm_ext/**/*") if path.is_file()}


@pytest.mark.parametrize("kind", ["wheel", "editable_wheel"])
def test_install_and_uninstall_by_pip_leave_nothing(kind, request, make_environment):
    environment = make_environment(with_pip=True)
    environment.pip("--version")
    before = environment.files()
    environment.pip("install", "--no-deps", "--no-index", str(request.getfixturevalue(kind)))
    assert (environment.packages / PTH).is_file()
    environment.add_package("omegaconf")
    shown = environment.run("-c", f"import omegaconf; {OURS}")
    assert "'speechdlm_ext.compat'" in shown.stdout, shown.stderr
    (environment.packages / "omegaconf.py").unlink()
    environment.pip("uninstall", "--yes", "speechdlm_ext")
    left = {name for name in environment.files() - before if "pip" not in name and "omegaconf" not in name}
    assert not [name for name in left if not name.endswith("__pycache__")]


@pytest.mark.parametrize("kind", ["wheel", "editable_wheel"])
def test_install_and_uninstall_by_uv_leave_nothing(kind, request, make_environment):
    uv = shutil.which("uv")
    if not uv:
        pytest.skip("uv is not installed")
    environment = make_environment()
    before = environment.files()
    target = ["--quiet", "--python", environment.python]
    wheel = request.getfixturevalue(kind)
    subprocess.run([uv, "pip", "install", *target, "--no-deps", "--no-index", wheel], check=True)
    assert (environment.packages / PTH).is_file()
    subprocess.run([uv, "pip", "uninstall", *target, "speechdlm_ext"], check=True)
    assert not [name for name in environment.files() - before if "speechdlm" in name]


def test_a_moved_checkout_leaves_an_editable_install_harmless(make_environment, tmp_path, source, build):
    moved = tmp_path / "here"
    shutil.copytree(source, moved, ignore=shutil.ignore_patterns("dist*", "build"))
    environment = make_environment(with_pip=True)
    environment.pip("install", "--no-deps", "--no-index", str(build(moved, "editable")))
    moved.rename(tmp_path / "there")
    environment.add_package("omegaconf", "loaded = True")
    done = environment.run("-c", "import omegaconf; print(omegaconf.loaded)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_metadata_names_what_it_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    assert "Requires-Python: >=3.10" in lines
    assert {f"Provides-Extra: {name}" for name in ("audio", "cluster", "demo", "dev", "eval", "hf")} <= set(lines)
    needed = {line.split(": ")[1] for line in lines if line.startswith("Requires-Dist") and ";" not in line}
    names = {re.split("[<>=]", requirement)[0] for requirement in needed}
    assert {"torch", "torchaudio", "soundfile", "soxr", "scikit-learn", "joblib", "editdistance", "requests"} <= names
    assert "fairseq==0.12.2" in needed  # the repairs are tried with this one


def test_constraints_hold_every_dependency_once_for_each_python(checkout: Path, wheel):
    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    needed = [Requirement(line.split(": ", 1)[1]) for line in lines if line.startswith("Requires-Dist")]
    extras = [line.split(": ", 1)[1] for line in lines if line.startswith("Provides-Extra")]
    ours = {"speechdlm-ext", "speechdlm_ext", "pyannote-audio"}  # the last is of an extra that is not in [dev]
    needed = [requirement for requirement in needed if requirement.name not in ours]
    pins = [Requirement(line) for line in (checkout / "constraints.txt").read_text().splitlines() if line[:1].isalnum()]
    for minor in (10, 11, 12, 13):
        pinned: dict[str, Requirement] = {}
        for pin in pins:
            if pin.marker is None or pin.marker.evaluate({"python_version": f"3.{minor}"}):
                assert pin.name not in pinned, f"{pin.name} twice for Python 3.{minor}"
                pinned[pin.name] = pin
        for requirement in needed:
            places = [{"python_version": f"3.{minor}", "extra": extra} for extra in ["", *extras]]
            if requirement.marker is not None and not any(map(requirement.marker.evaluate, places)):
                continue  # not for this Python
            version = str(next(iter(pinned[requirement.name].specifier)).version)
            assert requirement.specifier.contains(version), f"{requirement} against {pinned[requirement.name]}"
