"""SpeechDLM's names in a fairseq that has them already, and the import of the published README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# A stand-in for fairseq's main branch and the forks that carry its SpeechDLM: the same names, registered the same way.
OTHER = """
import sys, types
from dataclasses import dataclass
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.models import FairseqLanguageModel, register_model, register_model_architecture
from fairseq.tasks import FairseqTask, register_task

@dataclass
class SpeechDLMConfig(FairseqDataclass):
    whose: str = "theirs"

@register_task("speech_dlm_task", dataclass=SpeechDLMConfig)
class SpeechDLMTask(FairseqTask):
    pass

@register_model("speech_dlm", dataclass=SpeechDLMConfig)
class SpeechDLM(FairseqLanguageModel):
    pass

@register_model_architecture("speech_dlm", "speech_dlm_big")
def big(args):
    pass

@register_criterion("speech_dlm_criterion", dataclass=SpeechDLMConfig)
class SpeechDLMCriterion(FairseqCriterion):
    pass

class Unrelated(FairseqTask):
    pass
register_task("unrelated_task")(Unrelated)
"""
REPORT = """
import logging
from fairseq import criterions, models, tasks
from hydra.core.config_store import ConfigStore
store = ConfigStore.instance().repo
for found in (tasks.TASK_REGISTRY["speech_dlm_task"], models.MODEL_REGISTRY["speech_dlm"],
              models.ARCH_MODEL_REGISTRY["speech_dlm"], models.ARCH_MODEL_REGISTRY["speech_dlm_big"],
              criterions.CRITERION_REGISTRY["speech_dlm_criterion"]):
    print("owner", found.__module__.partition(".")[0])
print("archs", sorted(models.ARCH_MODEL_INV_REGISTRY["speech_dlm"]))
print("hydra", "whose" in store["task"]["speech_dlm_task.yaml"].node)
print("others", "unrelated_task" in tasks.TASK_REGISTRY, "translation" in tasks.TASK_REGISTRY)
"""
WANTED = ["owner speechdlm_ext"] * 5 + ["archs ['speech_dlm', 'speech_dlm_big']", "hydra False", "others True True"]


def _last_lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.split(" ")[0] in ("owner", "archs", "hydra", "others")]


def test_ours_take_the_place_of_others_with_one_log_line(run_command: Any, tmp_path: Path) -> None:
    """The package is imported when the others' names are there, as ``--user-dir`` does it."""
    (tmp_path / "other.py").write_text(OTHER)
    program = f"""
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
sys.path.insert(0, {str(tmp_path)!r})
import fairseq, other
import speechdlm_ext
{REPORT}
"""
    done = run_command(["python", "-c", program])
    assert _last_lines(done.stdout) == WANTED
    told = [line for line in done.stderr.splitlines() if "takes the place" in line]
    assert len(told) == 1 and "other" in told[0]


def test_importing_again_is_harmless(run_command: Any, checkout: Path) -> None:
    program = f"""
from argparse import Namespace
import speechdlm_ext, fairseq
from fairseq import utils
utils.import_user_module(Namespace(user_dir={str(checkout / "speechdlm_ext")!r}))
import importlib
importlib.reload(speechdlm_ext)
from speechdlm_ext import compat
compat.activate()
{REPORT}
"""
    assert _last_lines(run_command(["python", "-c", program]).stdout)[:-1] == WANTED[:-1]


def test_the_published_import_gives_ours(run_command: Any) -> None:
    program = """
import sys
from fairseq.models.speech_dlm import SpeechDLM
print(SpeechDLM.__module__, callable(SpeechDLM.from_pretrained))
import fairseq.models.speech_dlm as module
try:
    module.Nothing
except AttributeError as error:
    print(error)
"""
    done = run_command(["python", "-c", program])
    lines = done.stdout.strip().splitlines()
    assert lines[-2:] == [
        "speechdlm_ext.models.speech_dlm True",
        "module 'fairseq.models.speech_dlm' has no attribute 'Nothing'",
    ]


def test_a_real_module_of_that_name_gives_ours_too(run_command: Any) -> None:
    program = """
import sys, types
from speechdlm_ext.compat import activate
activate()
real = types.ModuleType("fairseq.models.speech_dlm")
real.SpeechDLM, real.other = "theirs", 1
sys.modules[real.__name__] = real  # as if fairseq had imported it while it was imported
import fairseq
from fairseq.models.speech_dlm import SpeechDLM, other
print(SpeechDLM.__module__, other)
"""
    assert run_command(["python", "-c", program]).stdout.strip().splitlines()[-1] == "speechdlm_ext.models.speech_dlm 1"
