"""What the losses share: sums that are logged as ratios, and the number format that they are summed in."""

import math
from typing import Any, ClassVar

import torch
from fairseq import metrics, utils
from fairseq.criterions import FairseqCriterion
from torch import Tensor

SCALES = {"bits": 1 / math.log(2), "percent": 100.0, "as it is": 1.0}


class SummedCriterion(FairseqCriterion):
    """A loss whose logged values are sums over a batch.

    Attributes:
        figures: what is shown, see :func:`log_means`.
    """

    figures: ClassVar[tuple[tuple[str, str, str, str], ...]] = ()

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log means over all that was seen since the last log; see the class."""
        log_means(logging_outputs, *cls.figures)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Every logged value is a sum."""
        return True


def precise(values: Tensor) -> Tensor:
    """Losses are summed in fp32, or in fp64 where the model is."""
    return values if values.dtype == torch.float64 else values.float()


def log_means(logging_outputs: list[dict[str, Any]], *figures: tuple[str, str, str, str]) -> None:
    """Log ratios of sums, and ``ppl`` of ``nll_loss``.

    Args:
        logging_outputs: sums by name, of each batch.
        figures: name, its sum, the count that it is divided by, and its unit in :data:`SCALES`.
    """
    sums = sum_logs(logging_outputs)
    for name, total, count, unit in figures:
        if sums.get(count) and total in sums:
            metrics.log_scalar(name, sums[total] / sums[count] * SCALES[unit], sums[count], round=6)
    if any(name == "nll_loss" and sums.get(count) for name, _, count, _ in figures):
        metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["nll_loss"].avg))


def sum_logs(logging_outputs: list[dict[str, Any]]) -> dict[str, float]:
    """The sum of each figure; those on a device come to the host together."""
    entries = [(key, value) for log in logging_outputs for key, value in log.items()]
    tensors = [value.double() for _, value in entries if isinstance(value, Tensor)]
    numbers = iter(torch.stack(tensors).tolist() if tensors else [])
    sums: dict[str, float] = {}
    for key, value in entries:
        sums[key] = sums.get(key, 0.0) + float(next(numbers) if isinstance(value, Tensor) else value)
    return sums
