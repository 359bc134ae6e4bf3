"""SpeechDLM's names where a fairseq has them already (its main branch, forks): ours take their place."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from .imports import PLUGIN, after_import, supply_module
from .repair import Repair

logger = logging.getLogger(__name__)

MODULE = "fairseq.models.speech_dlm"  # the import in the published README
_told: list[str] = []


def release(kind: str, names: Iterable[str]) -> None:
    """Make the names free to be registered: what others have under them is dropped, with one log line in all.

    What we have registered stays, so that a second import is harmless.

    Args:
        kind: "task", "model" (its named architectures go with it), "arch", or one of fairseq's other registries, such
            as "criterion".
        names: those that will be registered next.
    """
    for name in names:
        owner = _registry(kind).get(name)
        module = getattr(owner, "__module__", "")
        if owner is None or module.partition(".")[0] == "speechdlm_ext":
            continue
        {"task": _drop_task, "model": _drop_model, "arch": _drop_arch}.get(kind, _drop_other)(name, kind)
        if not _told:
            logger.info(f"speechdlm_ext's SpeechDLM takes the place of the one in {module} ({kind} {name}, …)")
        _told.append(name)


def _registry(kind: str) -> dict[str, Any]:
    from fairseq import models, tasks
    from fairseq.registry import REGISTRIES

    known = {"task": tasks.TASK_REGISTRY, "model": models.MODEL_REGISTRY, "arch": models.ARCH_MODEL_REGISTRY}
    registry: dict[str, Any] = known[kind] if kind in known else REGISTRIES[kind]["registry"]
    return registry


def _drop_task(name: str, kind: str) -> None:
    from fairseq import tasks

    tasks.TASK_CLASS_NAMES.discard(tasks.TASK_REGISTRY.pop(name).__name__)
    tasks.TASK_DATACLASS_REGISTRY.pop(name, None)


def _drop_model(name: str, kind: str) -> None:
    from fairseq import models

    models.MODEL_REGISTRY.pop(name)
    models.MODEL_DATACLASS_REGISTRY.pop(name, None)
    for arch in [arch for arch, model in models.ARCH_MODEL_NAME_REGISTRY.items() if model == name]:
        _drop_arch(arch, "arch")


def _drop_arch(name: str, kind: str) -> None:
    from fairseq import models

    models.ARCH_MODEL_REGISTRY.pop(name)
    models.ARCH_CONFIG_REGISTRY.pop(name, None)
    archs = models.ARCH_MODEL_INV_REGISTRY.get(models.ARCH_MODEL_NAME_REGISTRY.pop(name, None), [])
    if name in archs:
        archs.remove(name)


def _drop_other(name: str, kind: str) -> None:
    from fairseq.registry import REGISTRIES

    owner = REGISTRIES[kind]["registry"].pop(name)
    REGISTRIES[kind]["dataclass_registry"].pop(name, None)
    # fairseq keeps the class names of a registry where only the registering function reaches them.
    register = getattr(sys.modules.get(f"fairseq.{kind}s"), f"register_{kind}", None)
    for cell in getattr(register, "__closure__", None) or ():
        if isinstance(cell.cell_contents, set):
            cell.cell_contents.discard(owner.__name__)


def _give_ours(module: Any) -> None:
    """Let ``module.SpeechDLM`` be ours, loaded when it is asked for."""

    def __getattr__(name: str) -> Any:
        if name == "SpeechDLM":
            import_module(PLUGIN)
            return _registry("model")["speech_dlm"]
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    vars(module).pop("SpeechDLM", None)
    module.__getattr__ = __getattr__


def _supply_published_import() -> None:
    supply_module(MODULE, _give_ours)
    # A fairseq that has the module imports it itself, while it is being imported: ours can follow only then.
    after_import("fairseq", lambda fairseq: _give_ours(sys.modules[MODULE]) if MODULE in sys.modules else None)


REPAIRS = [
    Repair(
        name="published-import",
        package="fairseq",
        fault="ModuleNotFoundError: No module named 'fairseq.models.speech_dlm' (the import in the published README)",
        at_once=_supply_published_import,
    ),
]
