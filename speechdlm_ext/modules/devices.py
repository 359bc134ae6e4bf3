"""Devices by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from speechdlm_ext.errors import InputError

if TYPE_CHECKING:  # torch is imported where it is needed, so that a command's --help does not wait for it
    import torch


def open_device(name: str | None) -> torch.device:
    """The device of that name, by default a GPU where there is one.

    Raises:
        InputError: it is not available.
    """
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from None
    return torch.device(name)
