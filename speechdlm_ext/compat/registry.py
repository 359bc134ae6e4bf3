"""SpeechDLM's names where a fairseq has them already (its main branch, forks): ours take their place."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from .imports import after_import, supply_module
from .repair import Repair, always

logger = logging.getLogger(__name__)

MODULE = "fairseq.models.speech_dlm"  # the import in the published README
_told: list[str] = []


def release(kind: str, names: Iterable[str]) -> None:
    """Make the names free to be registered: whatever fairseq has under them is dropped, with one log line in all.

    Args:
        kind: "task", "model" (its named architectures go with it), "arch", or one of fairseq's other registries, such
            as "criterion".
        names: those that will be registered next.
    """
    for name in names:
        owner = _OWNERS.get(kind, _drop_other)(name, kind)
        module = getattr(owner, "__module__", "")
        if owner is None or module.partition(".")[0] == "speechdlm_ext":
            continue
        if not _told:
            logger.info(f"speechdlm_ext's SpeechDLM takes the place of the one in {module} (names: {name}, …)")
        _told.append(name)


def _drop_task(name: str, kind: str) -> Any:
    from fairseq import tasks

    owner = tasks.TASK_REGISTRY.pop(name, None)
    tasks.TASK_DATACLASS_REGISTRY.pop(name, None)
    if owner is not None:
        tasks.TASK_CLASS_NAMES.discard(owner.__name__)
    return owner


def _drop_model(name: str, kind: str) -> Any:
    from fairseq import models

    owner = models.MODEL_REGISTRY.pop(name, None)
    models.MODEL_DATACLASS_REGISTRY.pop(name, None)
    for arch in [arch for arch, model in models.ARCH_MODEL_NAME_REGISTRY.items() if model == name]:
        _drop_arch(arch, "arch")
    return owner


def _drop_arch(name: str, kind: str) -> Any:
    from fairseq import models

    owner = models.ARCH_MODEL_REGISTRY.pop(name, None)
    model = models.ARCH_MODEL_NAME_REGISTRY.pop(name, None)
    models.ARCH_CONFIG_REGISTRY.pop(name, None)
    archs = models.ARCH_MODEL_INV_REGISTRY.get(model, [])
    if name in archs:
        archs.remove(name)
    return owner


def _drop_other(name: str, kind: str) -> Any:
    from fairseq.registry import REGISTRIES

    entry = REGISTRIES[kind]
    owner = entry["registry"].pop(name, None)
    entry["dataclass_registry"].pop(name, None)
    if owner is not None:
        _forget_class_name(kind, owner.__name__)
    return owner


def _forget_class_name(kind: str, class_name: str) -> None:
    """fairseq keeps the class names of a registry where only the registering function reaches them."""
    register = getattr(sys.modules.get(f"fairseq.{kind}s"), f"register_{kind}", None)
    for cell in getattr(register, "__closure__", None) or ():
        if isinstance(cell.cell_contents, set):
            cell.cell_contents.discard(class_name)


_OWNERS = {"task": _drop_task, "model": _drop_model, "arch": _drop_arch}


def _give_ours(module: ModuleType) -> None:
    """Let ``module.SpeechDLM`` be ours, loaded when it is asked for."""

    def __getattr__(name: str) -> Any:
        if name == "SpeechDLM":
            from speechdlm_ext.models.speech_dlm import SpeechDLM

            return SpeechDLM
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    vars(module).pop("SpeechDLM", None)
    module.__getattr__ = __getattr__  # type: ignore[method-assign]


def _supply_published_import() -> None:
    supply_module(MODULE, _give_ours)
    # A fairseq that has the module imports it itself, while it is being imported: ours can follow only then.
    after_import("fairseq", lambda fairseq: _give_ours(sys.modules[MODULE]) if MODULE in sys.modules else None)


REPAIRS = [
    Repair(
        name="published-import",
        package="fairseq",
        fault="ModuleNotFoundError: No module named 'fairseq.models.speech_dlm' (the import in the published README)",
        versions="all",
        needed=always,
        apply=_supply_published_import,
    ),
]
