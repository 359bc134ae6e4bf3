"""Several processes without GPUs, and backends that need a package which is not there."""

from __future__ import annotations

import functools
import logging
from types import ModuleType
from typing import Any

from speechdlm_ext.compat.imports import after_import
from speechdlm_ext.compat.refusal import refusal
from speechdlm_ext.compat.repair import Repair, always

logger = logging.getLogger(__name__)


def _fit_ddp_to_model(module: ModuleType) -> None:
    original = module.DistributedDataParallel

    def distributed_data_parallel(module: Any, *args: Any, **options: Any) -> Any:
        parameter = next(iter(module.parameters()), None)
        if parameter is not None and parameter.device.type == "cpu":
            options.update(device_ids=None, output_device=None)
        if any(hasattr(layer, "load_to_BT") for layer in module.modules()):
            # fairseq's encoder layers have a second set of weights, for inference alone; no gradient reaches them.
            options.update(find_unused_parameters=True)
        return original(module, *args, **options)

    module.DistributedDataParallel = distributed_data_parallel  # type: ignore[attr-defined]


def _gloo_without_gpus(module: ModuleType) -> None:
    original = module.distributed_init

    @functools.wraps(original)
    def distributed_init(cfg: Any) -> Any:
        distributed, common = getattr(cfg, "distributed_training", None), getattr(cfg, "common", None)
        no_gpu = getattr(common, "cpu", False) or not module.torch.cuda.is_available()
        if no_gpu and getattr(distributed, "distributed_backend", None) == "nccl" and not getattr(common, "tpu", False):
            logger.info("--distributed-backend nccl needs GPUs: using gloo")
            distributed.distributed_backend = "gloo"  # type: ignore[union-attr]
        return original(cfg)

    module.distributed_init = distributed_init  # type: ignore[attr-defined]


def _gather_anything(module: ModuleType) -> None:
    original = module.all_gather_list

    @functools.wraps(original)
    def all_gather_list(data: Any, group: Any = None, max_size: int = 16384) -> list[Any]:
        group = module.get_global_group() if group is None else group
        if isinstance(group, tuple):  # of TPUs
            gathered: list[Any] = original(data, group, max_size)
            return gathered
        from fairseq.utils import move_to_cpu

        gathered = [None] * module.get_world_size(group)
        module.dist.all_gather_object(gathered, move_to_cpu(data), group=group)
        return gathered

    module.all_gather_list = all_gather_list  # type: ignore[attr-defined]


def _refuse_fully_sharded(module: ModuleType) -> None:
    original = module.fsdp_enable_wrap

    @functools.wraps(original)
    def fsdp_enable_wrap(cfg: Any) -> Any:
        wanted = None
        if not module.has_FSDP:
            wanted = "needs the package fairscale, which is not installed: install it (pip install fairscale)"
        elif not module.torch.cuda.is_available():
            wanted = "needs GPUs, and none is found: use another backend"
        elif cfg.distributed_world_size == 1:
            wanted = "has nothing to share out in a single process: start several (torchrun)"
        if wanted is not None:
            raise refusal(f"--ddp-backend fully_sharded {wanted}, or leave the option out")
        return original(cfg)

    module.fsdp_enable_wrap = fsdp_enable_wrap  # type: ignore[attr-defined]


REPAIRS = [
    Repair(
        name="ddp-on-cpu",
        package="fairseq",
        fault="with the default --ddp-backend: ValueError: DistributedDataParallel device_ids … only work with "
        "single-device GPU modules (on CPU); RuntimeError: Expected to have finished reduction (encoder models)",
        versions="all",
        needed=always,
        apply=lambda: after_import("fairseq.models.distributed_fairseq_model", _fit_ddp_to_model),
    ),
    Repair(
        name="gloo-on-cpu",
        package="fairseq",
        fault="ProcessGroupNCCL is only supported with GPUs (torchrun on CPU with the default --distributed-backend)",
        versions="all",
        needed=always,
        apply=lambda: after_import("fairseq.distributed.utils", _gloo_without_gpus),
    ),
    Repair(
        name="gathered-lists",
        package="fairseq",
        fault="TypeError: type torch.cuda.ByteTensor not available (on CPU), ValueError: encoded data size … exceeds "
        "max_size (fairseq-validate in several processes)",
        versions="all",
        needed=always,
        apply=lambda: after_import("fairseq.distributed.utils", _gather_anything),
    ),
    Repair(
        name="fully-sharded",
        package="fairseq",
        fault="tracebacks for --ddp-backend fully_sharded without fairscale, without a GPU, or in a single process",
        versions="all",
        needed=always,
        apply=lambda: after_import("fairseq.distributed.fully_sharded_data_parallel", _refuse_fully_sharded),
    ),
]
