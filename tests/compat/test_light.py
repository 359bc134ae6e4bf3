"""The repairs cost nothing to programs that need none, and come by themselves to those that do."""

from __future__ import annotations

from typing import Any

CHECK = "import sys; print(sorted({'torch', 'numpy', 'fairseq', 'omegaconf'} & set(sys.modules)))"


def test_activating_loads_no_heavy_package(run_command: Any) -> None:
    done = run_command(["python", "-c", f"from speechdlm_ext import compat; compat.activate(); {CHECK}"])
    assert done.stdout.strip() == "[]"


def test_this_room_stands_without_the_package_around_it(run_command: Any, checkout: Any) -> None:
    program = f"""
import importlib.util, sys
folder = {str(checkout / "speechdlm_ext" / "compat")!r}
spec = importlib.util.spec_from_file_location(
    "speechdlm_ext.compat", folder + "/__init__.py", submodule_search_locations=[folder])
module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.activate()
assert "speechdlm_ext" not in sys.modules
import fairseq.tasks.language_modeling
assert "speechdlm_ext" not in sys.modules
import speechdlm_ext
assert speechdlm_ext.compat is module
from fairseq.tasks import TASK_REGISTRY
assert "speech_dlm_task" in TASK_REGISTRY
print("stands")
"""
    # As if only the checkout were there, without the installed start-up hook.
    before = f"""
import sys
sys.path.insert(0, {str(checkout)!r})
sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "FirstImport"]
"""
    done = run_command(["python", "-c", before + program])
    assert done.stdout.strip().endswith("stands")


def test_torchaudio_may_come_first(run_command: Any) -> None:
    program = """
from speechdlm_ext import compat
compat.activate()
import torch, torchaudio
mel = torchaudio.transforms.MelSpectrogram(16000, n_fft=400, n_mels=8)(torch.randn(1, 1600))
wave = torchaudio.functional.resample(torch.ones(1, 800), 8000, 16000)
print(tuple(mel.shape), tuple(wave.shape))
"""
    assert run_command(["python", "-c", program]).stdout.strip() == "(1, 8, 9) (1, 1600)"
