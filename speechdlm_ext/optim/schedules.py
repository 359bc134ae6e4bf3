"""Learning-rate schedules of NeMo's configurations: cosine, polynomial decay after a hold, Noam."""

import math
from dataclasses import dataclass, field
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

from speechdlm_ext.errors import InputError


def cosine_rate(step: int, lr: float, min_lr: float, max_steps: int, warmup: int, constant: int = 0) -> float:
    """Learning rate of update ``step`` (the first is 0): linear warm-up, a half cosine, then ``min_lr``.

    Args:
        step: updates so far.
        lr: at the end of the warm-up.
        min_lr: at the end of the decay.
        max_steps: updates of the whole training.
        warmup: updates of the warm-up.
        constant: last updates at ``min_lr``. When not 0, the warm-up begins at 0, as in Megatron.

    Returns:
        The learning rate.
    """
    if step <= warmup and warmup > 0:
        return lr * step / warmup if constant else lr * (step + 1) / (warmup + 1)
    decay = max_steps - warmup - constant
    if step > warmup + decay:
        return min_lr
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / decay))


def polynomial_hold_rate(
    step: int, lr: float, min_lr: float, max_steps: int, warmup: int, hold: int, power: float
) -> float:
    """Learning rate of update ``step``: linear warm-up, ``hold`` updates at ``lr``, then a polynomial to ``min_lr``."""
    if step <= warmup and warmup > 0:
        return lr * (step + 1) / (warmup + 1)
    begin = warmup + hold
    if step < begin:
        return lr
    if step > max_steps or begin >= max_steps:
        return min_lr
    return min_lr + (lr - min_lr) * (1 - (step - begin) / (max_steps - begin)) ** power


def noam_rate(step: int, lr: float, min_lr: float, warmup: int, d_model: int) -> float:
    """Learning rate of update ``step``: ``lr d_model^-0.5 min(step^-0.5, step warmup^-1.5)`` (Vaswani et al. 2017)."""
    place = max(1, step)
    factor = place**-0.5 if warmup <= 0 else min(place**-0.5, place * warmup**-1.5)
    rate = lr * d_model**-0.5 * factor
    return max(rate, min_lr) if step > warmup else rate


@dataclass
class _WarmupConfig(FairseqDataclass):
    warmup_updates: int = field(default=0, metadata={"help": "updates of linear warm-up"})
    warmup_ratio: float = field(default=0.0, metadata={"help": "the same as a share of --max-update"})
    min_lr: float = field(default=0.0, metadata={"help": "learning rate at the end"})
    lr: Any = II("optimization.lr")
    max_update: int = II("optimization.max_update")


class _Schedule(FairseqLRScheduler):
    """What the schedules share: the number of updates, the warm-up, no change at the end of an epoch."""

    needs_max_update = True

    def __init__(self, cfg: Any, optimizer: Any) -> None:
        super().__init__(cfg, optimizer)
        self.max_lr = float(cfg.lr if isinstance(cfg.lr, (int, float)) else cfg.lr[0])
        if not isinstance(cfg.lr, (int, float)) and len(cfg.lr) > 1:
            raise InputError(f"--lr {list(cfg.lr)}: one learning rate is expected, the schedule changes it")
        if self.needs_max_update and cfg.max_update <= 0:
            raise InputError(f"--lr-scheduler {self.name}: pass --max-update, the number of updates that it spans")
        if cfg.warmup_ratio and cfg.warmup_updates:
            raise InputError("--warmup-updates and --warmup-ratio: one of both is expected")
        if cfg.warmup_ratio and cfg.max_update <= 0:
            raise InputError("--warmup-ratio is a share of --max-update, which is missing")
        if self.needs_max_update and self.max_lr < cfg.min_lr:
            raise InputError(f"--lr {self.max_lr:g} is below --min-lr {cfg.min_lr:g}")
        self.warmup = int(cfg.warmup_ratio * cfg.max_update) or cfg.warmup_updates
        self.step_update(0)

    name = ""

    def rate(self, step: int) -> float:
        """Learning rate of an update."""
        raise NotImplementedError

    def step(self, epoch: int, val_loss: float | None = None) -> float:
        """At the end of an epoch nothing changes."""
        super().step(epoch, val_loss)
        return float(self.optimizer.get_lr())

    def step_update(self, num_updates: int) -> float:
        """Set the learning rate after ``num_updates`` updates, and return it."""
        rate = self.rate(num_updates)
        self.optimizer.set_lr(rate)
        return rate


@dataclass
class CosineAnnealingConfig(_WarmupConfig):
    """Options of ``cosine_annealing``."""

    constant_updates: int = field(default=0, metadata={"help": "last updates at --min-lr"})


@register_lr_scheduler("cosine_annealing", dataclass=CosineAnnealingConfig)
class CosineAnnealing(_Schedule):
    """See :func:`cosine_rate`."""

    name = "cosine_annealing"

    def rate(self, step: int) -> float:
        """See :func:`cosine_rate`."""
        cfg = self.cfg
        return cosine_rate(step, self.max_lr, cfg.min_lr, cfg.max_update, self.warmup, cfg.constant_updates)


@dataclass
class PolynomialHoldConfig(_WarmupConfig):
    """Options of ``polynomial_hold``."""

    hold_updates: int = field(default=0, metadata={"help": "updates at --lr after the warm-up"})
    hold_ratio: float = field(default=0.0, metadata={"help": "the same as a share of --max-update"})
    power: float = field(default=1.0, metadata={"help": "power of the polynomial"})


@register_lr_scheduler("polynomial_hold", dataclass=PolynomialHoldConfig)
class PolynomialHold(_Schedule):
    """See :func:`polynomial_hold_rate`."""

    name = "polynomial_hold"

    def rate(self, step: int) -> float:
        """See :func:`polynomial_hold_rate`."""
        cfg = self.cfg
        hold = int(cfg.hold_ratio * cfg.max_update) or cfg.hold_updates
        return polynomial_hold_rate(step, self.max_lr, cfg.min_lr, cfg.max_update, self.warmup, hold, cfg.power)


@dataclass
class NoamConfig(_WarmupConfig):
    """Options of ``noam_annealing``."""

    noam_dim: int = field(default=512, metadata={"help": "width d of the model: the rate is divided by its root"})


@register_lr_scheduler("noam_annealing", dataclass=NoamConfig)
class Noam(_Schedule):
    """See :func:`noam_rate`."""

    name = "noam_annealing"
    needs_max_update = False

    def rate(self, step: int) -> float:
        """See :func:`noam_rate`."""
        return noam_rate(step, self.max_lr, self.cfg.min_lr, self.warmup, self.cfg.noam_dim)
