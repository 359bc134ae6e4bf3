"""The codebook sizes and duration penalties that models have been published for (DP-SLM), by name."""

from __future__ import annotations

from dataclasses import dataclass

from speechdlm_ext.errors import InputError

# K, and λ with the bitrate of the deduplicated units in bit/s that its authors found.
_PAIRS: dict[int, dict[int, int]] = {
    100: {0: 192, 600: 177, 1500: 159, 3000: 138, 5000: 118, 9000: 99},
    200: {0: 243, 700: 223, 1500: 204, 3000: 175, 5000: 147, 7500: 124},
    500: {0: 320, 600: 295, 1500: 265, 2800: 229, 4500: 194, 7000: 160},
    1000: {0: 386, 600: 356, 1400: 320, 2500: 279, 3800: 242, 6000: 200},
}


@dataclass(frozen=True)
class PublishedPair:
    """A codebook of WavLM-Large's layer 11 and a duration penalty for which DP-SLM has models.

    Attributes:
        units: size of the codebook, K.
        duration_penalty: λ, in squared distance of those features.
        bitrate: that the authors found, in bit/s, of the entropy of single units.
    """

    units: int
    duration_penalty: float
    bitrate: int

    @property
    def name(self) -> str:
        """For example ``k500-l4500``."""
        return f"k{self.units}-l{self.duration_penalty:g}"

    @property
    def num_neighbors(self) -> int:
        """5 % of the codes, as in the paper."""
        return self.units // 20


PUBLISHED: dict[str, PublishedPair] = {
    pair.name: pair
    for units, penalties in _PAIRS.items()
    for pair in (PublishedPair(units, float(penalty), bitrate) for penalty, bitrate in penalties.items())
}


def published_pair(name: str, units: int | None = None) -> PublishedPair:
    """The pair of this name.

    Args:
        name: for example ``k500-l4500``.
        units: size of the codebook that it is to be used with, if it is known.

    Raises:
        InputError: there is no such pair, or it is for codebooks of another size.
    """
    if name not in PUBLISHED:
        raise InputError(
            f"{name!r} is no published pair of codebook size and penalty: there are {', '.join(PUBLISHED)}"
        )
    pair = PUBLISHED[name]
    if units not in (None, pair.units):
        raise InputError(f"{name} is for a codebook of {pair.units} units, this one has {units}")
    return pair
