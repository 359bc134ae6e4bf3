"""What the .pth file does at the start of Python: nothing, until a package that needs repairs is imported."""

from __future__ import annotations

import json
import shutil
import site
from pathlib import Path

import pytest

PACKAGES = ("fairseq", "fairseq_cli", "hydra", "omegaconf", "torchaudio")
OURS = "import sys; print(sorted(name for name in sys.modules if name.startswith('speechdlm_ext')))"


@pytest.mark.parametrize("flags", [[], ["-I"], ["-E", "-s"], ["-O"], ["-X", "utf8"]])
def test_nothing_of_ours_is_loaded_at_start(installed, flags):
    done = installed.run(*flags, "-c", OURS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_torch_and_numpy_load_nothing_of_ours(installed):
    here = [folder for folder in site.getsitepackages() if Path(folder, "torch").is_dir()]
    if not here:
        pytest.skip("torch is not installed in this interpreter's site-packages")
    done = installed.run("-c", f"import torch, numpy; {OURS}", env={"PYTHONPATH": here[0]})
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("flags", [[], ["-I"]])
def test_the_first_import_of_each_package_loads_compat_alone(installed, name, flags):
    installed.add_package(name, "import sys\nbefore = 'speechdlm_ext.compat' in sys.modules")
    check = f"import {name} as m, sys; print(m.before, 'speechdlm_ext' in sys.modules, 'torch' in sys.modules)"
    done = installed.run(*flags, "-c", check)
    assert (done.stdout, done.stderr) == ("True False False\n", "")


def test_modules_run_by_name_and_spawned_processes_are_served(installed):
    (installed.packages / "fairseq_cli").mkdir()
    (installed.packages / "fairseq_cli" / "__init__.py").touch()
    code = "import sys; print(__name__, 'speechdlm_ext.compat' in sys.modules)"
    (installed.packages / "fairseq_cli" / "train.py").write_text(code)
    assert installed.run("-m", "fairseq_cli.train").stdout == "__main__ True\n"
    spawning = installed.folder / "spawning.py"
    spawning.write_text(
        "import multiprocessing\n"
        "def child(queue):\n"
        "    import omegaconf, sys\n"
        "    queue.put('speechdlm_ext.compat' in sys.modules)\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    queue = context.Queue()\n"
        "    process = context.Process(target=child, args=(queue,))\n"
        "    process.start()\n"
        "    print(queue.get(timeout=300))\n"
        "    process.join()\n"
    )
    installed.add_package("omegaconf")
    done = installed.run(str(spawning))
    assert done.stdout == "True\n", done.stderr


def test_the_hook_leaves_and_misses_no_callback_for_the_first_package(installed):
    installed.add_package("torchaudio")
    compat = installed.packages / "speechdlm_ext" / "compat"
    shutil.rmtree(compat)
    compat.mkdir()
    # A stand-in for compat that puts its own finder first, as the real one does.
    (compat / "__init__.py").write_text(
        "import sys\n"
        "seen = []\n"
        "class Finder:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        seen.append(name)\n"
        "def activate():\n"
        "    sys.meta_path.insert(0, Finder)\n"
    )
    check = "import sys, json, torchaudio; m = sys.modules['speechdlm_ext.compat']"
    check += "; print(json.dumps([m.seen, [getattr(f, '__name__', '') for f in sys.meta_path]]))"
    done = installed.run("-c", check)
    seen, finders = json.loads(done.stdout)
    assert seen.count("torchaudio") == 1
    assert finders[0] == "Finder" and "FirstImport" not in finders


def test_two_threads_wait_for_the_repairs(installed):
    installed.add_package("omegaconf", "import sys; ready = sys.modules['speechdlm_ext.compat'].ready")
    installed.add_package("hydra", "import sys; ready = sys.modules['speechdlm_ext.compat'].ready")
    compat = installed.packages / "speechdlm_ext" / "compat" / "__init__.py"
    compat.write_text(
        "import time\nready = False\ndef activate():\n    global ready\n    time.sleep(0.5)\n    ready = True\n"
    )
    check = (
        "import importlib, threading\n"
        "found = []\n"
        "load = lambda name: found.append(importlib.import_module(name).ready)\n"
        "threads = [threading.Thread(target=load, args=(name,)) for name in ('omegaconf', 'hydra')]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "print(found)"
    )
    done = installed.run("-c", check)
    assert done.stdout == "[True, True]\n", done.stderr


def _no_package(packages: Path) -> None:
    shutil.rmtree(packages / "speechdlm_ext")


def _no_bootstrap(packages: Path) -> None:
    (packages / "speechdlm_ext_bootstrap.py").unlink()
    shutil.rmtree(packages / "speechdlm_ext")


def _half_a_bootstrap(packages: Path) -> None:
    file = packages / "speechdlm_ext_bootstrap.py"
    file.write_text(file.read_text()[:900] + "\n(")


def _half_of_compat(packages: Path) -> None:
    for file in (packages / "speechdlm_ext" / "compat").glob("*.py"):
        if file.name != "__init__.py":
            file.unlink()


def _compat_that_fails(packages: Path) -> None:
    (packages / "speechdlm_ext" / "compat" / "__init__.py").write_text("raise RuntimeError('two\\nlines')")


@pytest.mark.parametrize(
    "damage",
    [_no_package, _no_bootstrap, _half_a_bootstrap, _half_of_compat, _compat_that_fails],
    ids=lambda d: d.__name__,
)
def test_a_broken_install_never_breaks_python(installed, damage):
    damage(installed.packages)
    shutil.rmtree(installed.packages / "__pycache__", ignore_errors=True)
    installed.add_package("omegaconf", "loaded = True")
    done = installed.run("-c", "import json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = installed.run("-c", "import omegaconf; print(omegaconf.loaded)")
    assert (done.returncode, done.stdout) == (0, "True\n")
    assert len(done.stderr.splitlines()) <= 1 and "Traceback" not in done.stderr
    if damage not in (_no_bootstrap, _half_a_bootstrap):
        assert "speechdlm_ext: fairseq is not repaired" in done.stderr


def test_python_starts_with_its_error_stream_closed(installed):
    _no_package(installed.packages)
    installed.add_package("omegaconf")
    done = installed.run("-c", "import sys; sys.stderr = None; import omegaconf; print('on')")
    assert (done.returncode, done.stdout) == (0, "on\n")
