"""Novograd (Ginsburg et al. 2019, arXiv:1905.11286): the optimizer of QuartzNet and MatchboxNet, as NeMo has it.

Its second moment is one number a tensor, so a state takes half of Adam's memory.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II, OmegaConf

from speechdlm_ext.compat.fairseq.safe_eval import evaluate
from speechdlm_ext.errors import InputError


class Novograd(torch.optim.Optimizer):
    """Novograd; all tensors of a group are updated together and nothing waits for the device.

    With gradient g, parameter p and one v for each tensor::

        v = ||g||^2 where v is 0, else beta2 v + (1 - beta2) ||g||^2
        u = g / (sqrt(v) + eps) + weight_decay p          (1 - beta1) u with ``grad_averaging``
        m = beta1 m + u
        p = p - lr m

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: decay of m and of v.
        eps: added to denominators.
        weight_decay: inside the momentum, not decoupled from it.
        grad_averaging: weigh u by 1 - beta1.
        amsgrad: divide by the largest v so far.
        luc: limit the step of a tensor to ``min(luc_trust ||p|| / (||m|| + luc_eps), lr)``.
        luc_trust: see ``luc``.
        luc_eps: see ``luc``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        grad_averaging: bool = False,
        amsgrad: bool = False,
        luc: bool = False,
        luc_trust: float = 1e-3,
        luc_eps: float = 1e-8,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "grad_averaging": grad_averaging,
                "amsgrad": amsgrad, "luc": luc, "luc_trust": luc_trust, "luc_eps": luc_eps,
            },
        )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; parameters without a gradient keep their value and their state."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        gradients = [p.grad.float() for p in params if p.grad is not None]
        states = [self.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            if not state:
                state["exp_avg"] = torch.zeros_like(p, dtype=torch.float32)
                state["exp_avg_sq"] = torch.zeros((), device=p.device)
                if group["amsgrad"]:
                    state["max_exp_avg_sq"] = torch.zeros((), device=p.device)
        moments = [state["exp_avg"] for state in states]

        squares = torch.stack(torch._foreach_norm(gradients)).square()
        v = torch.stack([state["exp_avg_sq"] for state in states])
        v = torch.where(v == 0, squares, beta2 * v + (1 - beta2) * squares)
        _store(states, "exp_avg_sq", v)
        if group["amsgrad"]:
            v = torch.maximum(v, torch.stack([state["max_exp_avg_sq"] for state in states]))
            _store(states, "max_exp_avg_sq", v)
        updates = list(torch._foreach_div(gradients, list((v.sqrt() + group["eps"]).unbind())))
        if group["weight_decay"]:
            torch._foreach_add_(updates, [p.float() for p in params], alpha=group["weight_decay"])
        if group["grad_averaging"]:
            torch._foreach_mul_(updates, 1 - beta1)
        torch._foreach_mul_(moments, beta1)
        torch._foreach_add_(moments, updates)

        if group["luc"]:
            norms = (torch.stack(torch._foreach_norm(each)) for each in (params, moments))
            weight, moment = (norm.float() for norm in norms)
            limits = (group["luc_trust"] * weight / (moment + group["luc_eps"])).clamp(max=group["lr"])
            torch._foreach_sub_(params, torch._foreach_mul(moments, list(limits.unbind())))
        else:
            torch._foreach_add_(params, moments, alpha=-group["lr"])


def _store(states: list[dict[str, Any]], name: str, values: torch.Tensor) -> None:
    torch._foreach_copy_([state[name] for state in states], list(values.unbind()))


@dataclass
class NovogradConfig(FairseqDataclass):
    """Options of the optimizer."""

    novograd_betas: Any = field(default=(0.95, 0.98), metadata={"help": "decay of the first and second moment"})
    novograd_eps: float = field(default=1e-8, metadata={"help": "added to the root of the second moment"})
    weight_decay: float = field(default=0.0, metadata={"help": "weight decay, inside the momentum"})
    grad_averaging: bool = field(default=False, metadata={"help": "weigh each new gradient by 1 - beta1"})
    amsgrad: bool = field(default=False, metadata={"help": "divide by the largest second moment so far"})
    luc: bool = field(default=False, metadata={"help": "limit each tensor's step by the norm of its weights"})
    luc_trust: float = field(
        default=1e-3, metadata={"help": "with --luc: largest step as a share of the weights' norm"}
    )
    luc_eps: float = field(default=1e-8, metadata={"help": "with --luc: added to the norm of the moment"})
    lr: Any = II("optimization.lr")


@register_optimizer("novograd", dataclass=NovogradConfig)
class FairseqNovograd(FairseqOptimizer):
    """Novograd for ``--optimizer novograd``; fp16 needs ``--fp16-no-flatten-grads``."""

    def __init__(self, cfg: NovogradConfig, params: Iterable[Any]) -> None:
        super().__init__(cfg)
        self._optimizer = Novograd(params, **self.optimizer_config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """What overrides the settings that a checkpoint stores.

        Raises:
            InputError: the betas are not two numbers of [0, 1).
        """
        cfg, betas = self.cfg, self.cfg.novograd_betas
        betas = evaluate(betas) if isinstance(betas, str) else betas
        betas = OmegaConf.to_container(betas) if OmegaConf.is_config(betas) else betas
        try:
            beta1, beta2 = map(float, betas)
            valid = 0 <= beta1 < 1 and 0 <= beta2 < 1
        except (TypeError, ValueError):
            valid = False
        if not valid:
            raise InputError(f"--novograd-betas {betas}: two numbers of at least 0 and below 1 are expected")
        return {
            "lr": cfg.lr if isinstance(cfg.lr, (int, float)) else cfg.lr[0],
            "betas": (beta1, beta2), "eps": cfg.novograd_eps, "weight_decay": cfg.weight_decay,
            "grad_averaging": cfg.grad_averaging, "amsgrad": cfg.amsgrad,
            "luc": cfg.luc, "luc_trust": cfg.luc_trust, "luc_eps": cfg.luc_eps,
        }  # fmt: skip

    @property
    def supports_flat_params(self) -> bool:
        """One flat tensor would have one norm."""
        return False
