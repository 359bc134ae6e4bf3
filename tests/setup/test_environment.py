"""scripts/setup_environment.py: which torch it takes and says so, and when it has anything to do."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest


@pytest.fixture
def script(checkout, monkeypatch):
    spec = importlib.util.spec_from_file_location("setup_environment", checkout / "scripts" / "setup_environment.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "setup_environment", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_find_links", list)
    monkeypatch.setattr(module, "_reachable", lambda address: True)
    monkeypatch.setattr(module, "_installed_version", lambda python, package: "")
    monkeypatch.setattr(module.shutil, "which", lambda command: None)
    monkeypatch.setattr(module.sys, "platform", "linux")
    return module


def _choose(script, folder, wish=""):
    return script._choose_torch(folder, script.Base("python3", "3.11.7", "/usr"), wish)


def test_the_base_of_an_environment_is_the_interpreter_below(checkout, tmp_path):
    """Packages of the environment that `make` was started from are not those of the environment that it makes."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "outer")], check=True)
    folder = str(checkout / "scripts")
    code = f"import sys; sys.path.insert(0, {folder!r}); import setup_environment as e; print(e._base())"
    python = tmp_path / "outer" / "bin" / "python"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in done.stdout and sys.base_prefix in done.stdout


def test_without_a_driver_the_build_for_cpu_comes_from_pytorchs_index(script, tmp_path):
    torch = _choose(script, tmp_path)
    assert torch.pin == script._pinned("torch") + "+cpu"
    assert torch.index == "https://download.pytorch.org/whl/cpu" and torch.index in torch.why


def test_a_wheel_at_hand_is_taken_before_any_index(script, tmp_path, monkeypatch):
    pinned = script._pinned("torch")
    tag = f"cp3{sys.version_info[1]}"
    wheel = f"torch-{pinned}+cpu-{tag}-{tag}-manylinux_2_28_{script.platform.machine()}.whl"
    (tmp_path / wheel).touch()
    monkeypatch.setattr(script, "_find_links", lambda: [str(tmp_path)])
    torch = _choose(script, tmp_path)
    assert (torch.pin, torch.index) == (f"{pinned}+cpu", None)
    assert str(tmp_path) in torch.why


def test_several_gigabytes_are_announced(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "_reachable", lambda address: False)
    offline = _choose(script, tmp_path)
    assert offline.index is None and "GB" in offline.why and "Ctrl-C" in offline.why
    monkeypatch.setattr(script.shutil, "which", lambda command: f"/usr/bin/{command}")
    driver = _choose(script, tmp_path)
    assert driver.index is None and "GB" in driver.why and "TORCH=cpu" in driver.why


def test_torch_that_fits_is_kept_and_older_ones_are_not(script, tmp_path, monkeypatch):
    (tmp_path / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
    monkeypatch.setattr(script, "_installed_version", lambda python, package: "2.9.1+cu126")
    kept = _choose(script, tmp_path)
    assert (kept.pin, kept.index, kept.from_system) == ("2.9.1+cu126", None, False)
    monkeypatch.setattr(script, "_installed_version", lambda python, package: "2.5.1")
    assert _choose(script, tmp_path).pin.startswith(script._pinned("torch"))


def test_the_interpreters_own_torch_serves(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "_installed_version", lambda python, package: "2.8.0" * (str(python) == "python3"))
    torch = _choose(script, tmp_path)
    assert (torch.pin, torch.from_system) == ("2.8.0", True)


@pytest.mark.parametrize(
    ("wish", "build", "index"),
    [("cpu", "+cpu", "cpu"), ("cu128", "+cu128", "cu128"), ("rocm6.4", "+rocm6.4", "rocm6.4"), ("pypi", "", None)],
)
def test_a_wish_is_granted(script, tmp_path, wish, build, index):
    torch = _choose(script, tmp_path, wish)
    assert torch.pin == script._pinned("torch") + build
    assert torch.index == (index and f"https://download.pytorch.org/whl/{index}")


def test_constraints_name_the_chosen_torch_and_a_torchaudio_that_goes_with_it(script, tmp_path, checkout):
    newest = script._write_constraints(tmp_path, script.Torch(script._pinned("torch") + "+cpu", "")).read_text()
    assert newest.splitlines()[0] == f"torch=={script._pinned('torch')}+cpu"
    assert newest.splitlines()[1] == f"torchaudio=={script._pinned('torchaudio')}"
    older = script._write_constraints(tmp_path, script.Torch("2.8.0", "")).read_text().splitlines()
    assert older[:2] == ["torch==2.8.0", "torchaudio==2.8.*"]
    pins = {line for line in (checkout / "constraints.txt").read_text().splitlines() if line[:1].isalpha()}
    assert {line for line in pins if not line.startswith("torch")} == set(older[2:])


def test_an_environment_is_left_alone_until_something_changes(script, tmp_path, monkeypatch):
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    base = script._base()
    assert not script._is_current(folder, "")
    stamp = {"inputs": script._digest(), "version": base.version, "prefix": base.prefix}
    stamp |= {"folder": str(folder), "torch": "cpu"}
    (folder / script.STAMP).write_text(json.dumps(stamp))
    assert script._is_current(folder, "") and script._is_current(folder, "cpu")
    assert not script._is_current(folder, "cu128")
    assert script._fits(folder, base)
    moved = folder.rename(tmp_path / "moved")  # its commands name the old place in their first lines
    assert not script._is_current(moved, "") and not script._fits(moved, base)
    moved.rename(folder)
    other = script.Base("python3.99", "3.99.0", base.prefix)
    assert not script._fits(folder, other)
    monkeypatch.setattr(script, "_base", lambda: other)
    assert not script._is_current(folder, "")
    monkeypatch.undo()
    monkeypatch.setattr(script, "INPUTS", (*script.INPUTS, "Makefile"))
    assert not script._is_current(folder, "")


def test_a_folder_that_is_no_environment_is_not_removed(script, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(script.SetupError, match="is not a virtual environment"):
        script._remove(tmp_path)
    assert (tmp_path / "thesis.txt").is_file()


def test_a_wrong_torch_and_a_missing_compiler_are_one_line(checkout, tmp_path):
    command = [sys.executable, checkout / "scripts" / "setup_environment.py", tmp_path / "environment"]
    done = subprocess.run([*command, "--torch", "gpu please"], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "TORCH=gpu please" in done.stderr
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PATH": str(tmp_path), "CC": "no-cc", "CXX": "no-c++"}
    )
    assert done.returncode == 2 and "no-cc and no-c++ is missing" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "environment").exists()
