"""Values of published flags that are strings on the command line."""

from __future__ import annotations

from typing import Any

from speechdlm_ext.errors import InputError


def flag(value: Any, name: str) -> bool:
    """A boolean from ``True``/``False``, or from these words in any case, as the published flags take them."""
    word = str(value).lower()
    if word not in ("true", "false"):
        raise InputError(f'{name} {value}: "True" or "False" is expected')
    return word == "true"


def cross_weights(value: str) -> tuple[float, float]:
    """``--main-and-cross-weights``: the weights of predicting the own channel, and each of the others."""
    try:
        main, cross = (float(weight) for weight in str(value).split(","))
    except ValueError:
        raise InputError(f"--main-and-cross-weights {value}: two numbers are expected, as in 1,0") from None
    if not (main >= 0 and cross >= 0 and main + cross > 0):
        raise InputError(f"--main-and-cross-weights {value}: weights must not be negative, nor both 0")
    return main, cross


def channel_weights(value: str | None, channels: list[str]) -> list[float]:
    """``--channel-weights``: one weight for each channel, in the order of ``--channels``; 1 each by default."""
    if not value:
        return [1.0] * len(channels)
    try:
        weights = [float(weight) for weight in value.split(",")]
    except ValueError:
        raise InputError(f"--channel-weights {value}: numbers are expected, as in 1,0.5") from None
    if len(weights) != len(channels):
        raise InputError(
            f"--channel-weights {value}: {len(weights)} weights for {len(channels)} channels ({','.join(channels)})"
        )
    if min(weights) < 0 or max(weights) == 0:
        raise InputError(f"--channel-weights {value}: weights must not be negative, nor all 0")
    return weights
