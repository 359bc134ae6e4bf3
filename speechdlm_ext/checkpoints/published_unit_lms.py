"""The published unit language models of DP-SLM, by the size of their codebook and its duration penalty."""

from __future__ import annotations

import os
import re
from pathlib import Path

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.published import Published, locate

_RELEASE = "https://github.com/nicolvisser/Mistral-ULM/releases/download/v0.1.0"
# The first digits of each file's SHA-256, by (K, λ); trained on a thousand hours.
DIGESTS = {
    (100, 0): "b7a35cc5",
    (100, 600): "17e91718",
    (100, 1500): "6ba3cc55",
    (100, 3000): "5d0669b5",
    (100, 5000): "0c1af6fe",
    (100, 9000): "92bc9c97",
    (200, 0): "5574c355",
    (200, 700): "487bae0c",
    (200, 1500): "8524865e",
    (200, 3000): "ac40635d",
    (200, 5000): "09a1f87c",
    (200, 7500): "b685aac0",
    (500, 0): "532387cd",
    (500, 600): "b96bee1d",
    (500, 1500): "853fbee4",
    (500, 2800): "ef015b7f",
    (500, 4500): "9b75c46e",
    (500, 7000): "886ec1dd",
    (1000, 0): "56124eaa",
    (1000, 600): "810cb2f0",
    (1000, 1400): "7f014b7e",
    (1000, 2500): "c5cd03ce",
    (1000, 3800): "2c798110",
    (1000, 6000): "df9e72a7",
}
# The one that was trained on sixty thousand hours.
LARGE = "mistral-ulm-k-500-lmbda-4500-hours-60k"


def name_of(units: int, penalty: int) -> str:
    """The name of the model for a codebook of ``units`` and a duration penalty λ.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    if (units, penalty) not in DIGESTS:
        pairs = "; ".join(
            f"K={k}: λ={', '.join(str(other) for size, other in DIGESTS if size == k)}"
            for k in dict.fromkeys(size for size, _ in DIGESTS)
        )
        raise InputError(f"K={units}, λ={penalty}: no unit language model is published for these; there are {pairs}")
    return f"mistral-ulm-k-{units}-lmbda-{penalty}"


UNIT_LMS = {
    name_of(units, penalty): Published(
        f"{_RELEASE}/mistral-ulm-k-{units}-lmbda-{penalty}-hours-1k-steps-10k-{digest}.pt", digest
    )
    for (units, penalty), digest in DIGESTS.items()
} | {LARGE: Published(f"{_RELEASE}/{LARGE}-steps-200k-09759305.pt", "09759305")}


def locate_unit_lm(path_or_name: str | os.PathLike[str]) -> Path:
    """The path of a unit language model given by path, or by name, which fetches it into the cache.

    Raises:
        InputError: there is no such file, nor such a name (for a wrong K or λ those that there are are listed), or it
            cannot be fetched.
    """
    given = os.fspath(path_or_name)
    pair = re.fullmatch(r"mistral-ulm-k-(\d+)-lmbda-(\d+)", given)
    if pair and not os.path.exists(given):
        given = name_of(int(pair[1]), int(pair[2]))
    return locate(given, UNIT_LMS)
