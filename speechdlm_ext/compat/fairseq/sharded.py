"""``--ddp-backend fully_sharded`` by PyTorch's own sharding (FSDP2), not fairscale's: on GPUs, and on CPUs by gloo.

Weights, gradients and the optimizer's state are split among the processes; a layer's weights are put together while it
runs. Checkpoints have whole weights and states: they are read by one process, by several, and without sharding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from speechdlm_ext.compat.errors import InputError
from speechdlm_ext.compat.repair import Repair, replace


def _wrap_later(module: Any) -> None:
    @replace(module, "fsdp_enable_wrap")
    @contextmanager
    def fsdp_enable_wrap(cfg: Any) -> Iterator[None]:
        """Layers are sharded when the whole model has its weights, by the trainer."""
        problems = {
            "has nothing to share out in a single process: start several (torchrun)": cfg.distributed_world_size == 1,
            "does not go with --fp16: use --bf16": cfg.fp16,
            "does not go with --cpu-offload": cfg.cpu_offload,
            "does not go with --use-sharded-state: checkpoints have whole weights": cfg.use_sharded_state,
        }
        for problem, there in problems.items():
            if there:
                raise InputError(f"--ddp-backend fully_sharded {problem}, or drop the option")
        yield


def _shard_the_model(module: Any) -> None:
    original = module.DistributedFairseqModel

    @replace(module, "DistributedFairseqModel")
    def distributed_fairseq_model(args: Any, model: Any, process_group: Any, device: Any) -> Any:
        if args.ddp_backend != "fully_sharded":
            return original(args, model, process_group, device)
        from fairseq.models import BaseFairseqModel

        if not isinstance(model, BaseFairseqModel):  # weights of a criterion are few
            kept, args.ddp_backend = args.ddp_backend, "legacy_ddp"
            try:
                return original(args, model, process_group, device)
            finally:
                args.ddp_backend = kept
        return _sharded_class()(model.to(device), process_group, device, not args.no_reshard_after_forward)


def _trainer_of_shards(module: Any) -> None:
    trainer = module.Trainer
    clip: Callable[..., Any] = trainer.clip_grad_norm

    def is_fsdp(self: Any) -> bool:
        """Not before the model is sharded: fairscale is not imported, and bf16 is as without sharding."""
        backend = self.cfg.distributed_training.ddp_backend
        return backend == "fully_sharded" and vars(self).get("_wrapped_model") is not None

    def clip_grad_norm(self: Any, clip_norm: float) -> Any:
        return (
            self.optimizer.clip_grad_norm(clip_norm, aggregate_norm_fn=_whole)
            if self.is_fsdp
            else clip(self, clip_norm)
        )

    if not isinstance(trainer.is_fsdp, property):
        raise AttributeError("Trainer.is_fsdp is no property")
    trainer.is_fsdp, trainer.clip_grad_norm = property(is_fsdp), clip_grad_norm


def _whole(value: Any) -> Any:
    """A tensor of all processes' shards; other things as they are."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def _like(value: Any, shard: Any) -> Any:
    """This process's shard of a whole tensor, split as another one is."""
    from torch import Tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(shard, DTensor) or not isinstance(value, Tensor) or value.shape != shard.shape:
        return value
    return distribute_tensor(value.to(shard.device), shard.device_mesh, shard.placements)


def _sharded_class() -> Any:
    """The class is made when torch has been imported."""
    import torch
    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule, fully_shard
    from torch.utils._pytree import tree_map

    class ShardedModel(nn.Module):
        """A fairseq model whose weights are split among processes; what it lacks itself is the model's."""

        use_sharded_state = False
        module: Any

        def __init__(self, module: nn.Module, group: Any, device: torch.device, reshard: bool) -> None:
            super().__init__()
            mesh = DeviceMesh.from_group(group, device.type)
            for layer in _layers(module):
                fully_shard(layer, mesh=mesh, reshard_after_forward=reshard)
            fully_shard(module, mesh=mesh)
            if device.type == "cpu":  # gloo sums, but does not average
                for part in module.modules():
                    if isinstance(part, FSDPModule):
                        part.set_force_sum_reduction_for_comms(True)
            self.module = module
            self.first = torch.distributed.get_rank(group) == 0

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("module"), name)

        def forward(self, *args: Any, **options: Any) -> Any:
            """As the model's."""
            return self.module(*args, **options)

        def state_dict(self, *args: Any, **options: Any) -> Any:
            """Whole weights on the first process, none on the others; all have to ask."""
            return self._gathered(self.module.state_dict(*args, **options))

        def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
            """Take this process's shards of whole weights."""
            own = nn.Module.state_dict(self.module)
            split = {name: _like(value, own.get(name)) for name, value in state_dict.items()}
            return self.module.load_state_dict(split, *args, **options)

        def gather_full_optim_state_dict(self, optimizer: Any) -> Any:
            """The optimizer's whole state, as :meth:`state_dict`."""
            return self._gathered(optimizer.state_dict())

        def get_shard_from_optim_state_dict(self, state: Mapping[str, Any]) -> Any:
            """This process's shards of an optimizer's whole state."""
            weights = [one for one in self.parameters() if one.requires_grad]
            states = {
                number: {
                    key: _like(value, weights[number]) if number < len(weights) else value for key, value in one.items()
                }
                for number, one in state["state"].items()
            }
            return {**state, "state": states}

        def local_metadata_dict(self) -> None:
            """What fairseq keeps of shards in checkpoints; there are none."""

        def _gathered(self, state: Any) -> Any:
            def gather(value: Any) -> Any:
                found = _whole(value)
                keep = self.first or not isinstance(value, Tensor)
                return found.detach().cpu() if keep and found is not value else found if keep else None

            return tree_map(gather, state)

    return ShardedModel


def _layers(module: Any) -> Iterator[Any]:
    """The members of lists of modules, but not those inside of them, that have weights."""
    from torch import nn

    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (layer for layer in child if any(True for _ in layer.parameters()))
        else:
            yield from _layers(child)


REPAIRS = [
    Repair(
        name="fully-sharded",
        package="fairseq",
        fault="ImportError: Cannot find FullyShardedDataParallel (fairscale, which is not maintained and needs GPUs)",
        changes={
            "fairseq.distributed.fully_sharded_data_parallel": _wrap_later,
            "fairseq.models.distributed_fairseq_model": _shard_the_model,
            "fairseq.trainer": _trainer_of_shards,
        },
    ),
]
