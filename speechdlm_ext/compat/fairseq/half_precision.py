"""Half precision without a TPU: --bf16 trains on every device, --fp16 on a CPU is refused at the start."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from speechdlm_ext.compat.imports import after_import
from speechdlm_ext.compat.refusal import refusal
from speechdlm_ext.compat.repair import Repair, always


def _bf16_is_no_tpu(module: ModuleType) -> None:
    original = module.parse_args_and_arch

    @functools.wraps(original)
    def parse_args_and_arch(*args: Any, **options: Any) -> Any:
        try:
            parsed = original(*args, **options)
        except KeyError as error:
            if error.args != (None,):  # fairseq-validate looks its task up before it asks whether there is one
                raise
            raise refusal("--task is missing: name the task that the model was trained for") from error
        namespace = parsed[0] if isinstance(parsed, tuple) else parsed
        if getattr(namespace, "bf16", False) and find_spec("torch_xla") is None:
            namespace.tpu = False
        return parsed

    module.parse_args_and_arch = parse_args_and_arch  # type: ignore[attr-defined]


def _refuse_fp16_on_cpu(module: ModuleType) -> None:
    trainer = module.Trainer
    original = trainer.__init__

    @functools.wraps(original)
    def __init__(self: Any, cfg: Any, *args: Any, **options: Any) -> None:
        common = getattr(cfg, "common", cfg)
        no_gpu = getattr(common, "cpu", False) or not module.torch.cuda.is_available()
        if no_gpu and getattr(common, "fp16", False) and not getattr(common, "tpu", False):
            raise refusal("--fp16 trains on a GPU only: on a CPU use --bf16, or leave --fp16 out")
        original(self, cfg, *args, **options)

    trainer.__init__ = __init__


REPAIRS = [
    Repair(
        name="bf16-without-tpu",
        package="fairseq",
        fault="AttributeError: 'NoneType' object has no attribute 'xla_device' (--bf16 is taken for --tpu)",
        versions="all; not where torch_xla is installed",
        needed=always,
        apply=lambda: after_import("fairseq.options", _bf16_is_no_tpu),
    ),
    Repair(
        name="fp16-on-cpu",
        package="fairseq",
        fault="AssertionError: Torch not compiled with CUDA enabled (--fp16 --cpu)",
        versions="all",
        needed=always,
        apply=lambda: after_import("fairseq.trainer", _refuse_fp16_on_cpu),
    ),
]
