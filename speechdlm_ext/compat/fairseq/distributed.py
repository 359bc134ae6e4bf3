"""Several processes without GPUs."""

from __future__ import annotations

import logging
import os
from typing import Any

from speechdlm_ext.compat.errors import InputError
from speechdlm_ext.compat.fairseq.configs import check_seed
from speechdlm_ext.compat.repair import Repair, replace

logger = logging.getLogger(__name__)


def _fit_ddp_to_model(module: Any) -> None:
    original = module.DistributedDataParallel

    @replace(module, "DistributedDataParallel")
    def distributed_data_parallel(module: Any, *args: Any, **options: Any) -> Any:
        parameter = next(iter(module.parameters()), None)
        if parameter is not None and parameter.device.type == "cpu":
            options.update(device_ids=None, output_device=None)
        if any(hasattr(layer, "load_to_BT") for layer in module.modules()):
            # fairseq's encoder layers have a second set of weights, for inference alone; no gradient reaches them.
            options.update(find_unused_parameters=True)
        return original(module, *args, **options)


def _gloo_without_gpus(module: Any) -> None:
    original = module.distributed_init

    @replace(module, "distributed_init")
    def distributed_init(cfg: Any) -> Any:
        distributed, common = getattr(cfg, "distributed_training", None), getattr(cfg, "common", None)
        no_gpu = getattr(common, "cpu", False) or not module.torch.cuda.is_available()
        if no_gpu and getattr(distributed, "distributed_backend", None) == "nccl" and not getattr(common, "tpu", False):
            logger.info("--distributed-backend nccl needs GPUs: using gloo")
            distributed.distributed_backend = "gloo"  # type: ignore[union-attr]
        return original(cfg)


def _gather_anything(module: Any) -> None:
    original = module.all_gather_list

    @replace(module, "all_gather_list")
    def all_gather_list(data: Any, group: Any = None, max_size: int = 16384) -> list[Any]:
        group = module.get_global_group() if group is None else group
        if isinstance(group, tuple):  # of TPUs
            gathered: list[Any] = original(data, group, max_size)
            return gathered
        from fairseq.utils import move_to_cpu

        gathered = [None] * module.get_world_size(group)
        module.dist.all_gather_object(gathered, move_to_cpu(data), group=group)
        return gathered


_EACH_NODE = (
    "torchrun --nnodes NODES --nproc-per-node PROCESSES --rdzv-backend c10d --rdzv-endpoint HOST:PORT "
    "$(which fairseq-train) …"
)


def _start_processes_that_there_are(module: Any) -> None:
    infer = module.infer_init_method
    original = module.call_main

    @replace(module, "infer_init_method")
    def infer_init_method(cfg: Any, *args: Any, **options: Any) -> None:
        try:
            infer(cfg, *args, **options)
        except (AssertionError, TypeError) as error:
            raise InputError(_why_no_processes(module, cfg)) from error
        if cfg.distributed_no_spawn and module.torch.cuda.device_count() == 1:
            cfg.device_id = 0  # srun --gpus-per-task=1 shows each task its own GPU alone

    @replace(module, "call_main")
    def call_main(cfg: Any, main: Any, **options: Any) -> None:
        check_seed(cfg.common.seed)
        distributed = cfg.distributed_training
        if distributed.distributed_init_method is None:
            module.infer_init_method(distributed)
        spawns = distributed.distributed_init_method is not None and not distributed.distributed_no_spawn
        if spawns and module.torch.cuda.device_count() == 0:
            # fairseq would start a process for each GPU, that is none, and end with success.
            raise InputError(_why_no_processes(module, distributed))
        original(cfg, main, **options)


def _why_no_processes(module: Any, cfg: Any) -> str:
    gpus = module.torch.cuda.device_count()
    if cfg.distributed_port > 0 and gpus:
        tasks = os.environ.get("SLURM_NTASKS")
        return (
            f"--distributed-port {cfg.distributed_port}: SLURM's tasks ({tasks or 'not started by srun'}) do not go "
            f"with --distributed-world-size {cfg.distributed_world_size} and {gpus} GPUs here: srun one task a "
            f"node with {_EACH_NODE}"
        )
    return (
        f"--distributed-world-size {cfg.distributed_world_size}: one process is started for each GPU, and this machine "
        f"has {gpus}; start processes yourself, on each node: {_EACH_NODE}"
    )


REPAIRS = [
    Repair(
        name="processes-without-gpus",
        package="fairseq",
        fault="training that starts no process ends with success (--distributed-port or --distributed-init-method on "
        "CPU); AssertionError: world size is 2 but have 0 available devices",
        changes={"fairseq.distributed.utils": _start_processes_that_there_are},
    ),
    Repair(
        name="ddp-on-cpu",
        package="fairseq",
        fault="with the default --ddp-backend: ValueError: DistributedDataParallel device_ids … only work with "
        "single-device GPU modules (on CPU); RuntimeError: Expected to have finished reduction (encoder models)",
        changes={"fairseq.models.distributed_fairseq_model": _fit_ddp_to_model},
    ),
    Repair(
        name="gloo-on-cpu",
        package="fairseq",
        fault="ProcessGroupNCCL is only supported with GPUs (torchrun on CPU with the default --distributed-backend)",
        changes={"fairseq.distributed.utils": _gloo_without_gpus},
    ),
    Repair(
        name="gathered-lists",
        package="fairseq",
        fault="TypeError: type torch.cuda.ByteTensor not available (on CPU), ValueError: encoded data size … exceeds "
        "max_size (fairseq-validate in several processes)",
        changes={"fairseq.distributed.utils": _gather_anything},
    ),
]
