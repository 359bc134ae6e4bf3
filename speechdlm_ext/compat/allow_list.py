"""What the pickle inside a checkpoint may name: everything that fairseq's own files of all ages need, and no more.

torch's weights-only reader lets a file call, build and fill whatever is on the list, so nothing on it may do anything
but hold data. Where the real thing could do more (functions that call others, numpy's dtypes, which trust the state
that they are given), a stub of :mod:`.pickle_stubs` takes its name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import Enum
from typing import Any

from .pickle_stubs import STAND_INS, array_class

# By module, as pickles name them. Names that the installed versions do not have are passed over.
_NAMES: dict[str, tuple[str, ...]] = {
    "argparse": ("Namespace",),  # fairseq's options until 2020
    "builtins": ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "str", "tuple"),
    "pathlib": ("PosixPath", "PurePosixPath"),
    "pathlib._local": ("PosixPath", "PurePosixPath"),  # as Python 3.13 names them
    "typing": ("Any", "Dict", "List", "Optional", "Tuple", "Union"),
    # OmegaConf nodes: fairseq's options from late 2020 on
    "omegaconf.base": ("ContainerMetadata", "Metadata", "UnionNode", "ValueKind"),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.nodes": (
        "AnyNode",
        "BooleanNode",
        "BytesNode",
        "EnumNode",
        "FloatNode",
        "IntegerNode",
        "InterpolationResultNode",
        "PathNode",
        "StringNode",
        "ValueNode",
    ),
    # Objects that fairseq pickled whole: meters until 2019, the dictionaries of HuBERT and wav2vec 2.0 since
    "fairseq.meters": ("AverageMeter", "StopwatchMeter", "TimeMeter"),
    "fairseq.logging.meters": ("AverageMeter", "StopwatchMeter", "TimeMeter"),
    "fairseq.data.dictionary": ("Dictionary", "TruncatedDictionary"),
    "fairseq.distributed.utils": ("_TensorPlaceholder",),  # what rank 0 sends to the others
}


def allowed_globals() -> list[Any]:
    """Pairs of an object and the name by which a pickle may ask for it; imports nothing."""
    allowed = {f"{module}.{name}": value for module, name, value in _named()}
    allowed.update(_config_classes())
    allowed.update(STAND_INS)
    allowed["\n"] = array_class()  # may be filled, but no pickle can name it
    return [(value, name) for name, value in allowed.items()]


def _named() -> Iterator[tuple[str, str, Any]]:
    for module_name, names in _NAMES.items():
        module = sys.modules.get(module_name) or sys.modules.get(module_name.removesuffix("._local"))
        for name in names:
            if hasattr(module, name):
                yield module_name, name, getattr(module, name)


def _config_classes() -> Iterator[tuple[str, type]]:
    """fairseq's own and our own config classes, and the enumerations in their modules: they hold options."""
    configs = sys.modules.get("fairseq.dataclass.configs")
    pending: list[type] = [configs.FairseqDataclass] if configs is not None else []
    modules = set()
    while pending:
        cls = pending.pop()
        pending += type.__subclasses__(cls)
        if cls.__module__.partition(".")[0] in ("fairseq", "speechdlm_ext"):
            modules.add(cls.__module__)
            yield f"{cls.__module__}.{cls.__qualname__}", cls
    for module_name in modules:
        for value in list(vars(sys.modules[module_name]).values()):
            if isinstance(value, type) and issubclass(value, Enum) and value.__module__ == module_name:
                yield f"{module_name}.{value.__qualname__}", value
