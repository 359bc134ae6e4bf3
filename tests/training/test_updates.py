"""An update is the same however its batches are cut, and however its activations are kept."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from tests.training.conftest import Weights, difference

EVERYTHING = shlex.split(
    "--next-unit-prediction True --general-unit-loss-weight 0.5 --delayed-duration-target False "
    "--main-and-cross-weights 0.7,0.3 --channel-weights 1,0.5 --sentence-avg"
)


@pytest.mark.parametrize("options", [[], EVERYTHING], ids=["published", "everything"])
def test_several_batches_an_update_are_one_large_one(
    trained: Callable[..., Weights], start: Callable[..., Weights], options: list[str]
) -> None:
    """Rows are batched by length: one batch has 21 frames and nearly as many edges, the other 70 and few."""
    together, begun = trained("--batch-size", "4", *options), start(*options)
    assert difference(begun, together, begun) > 0.99  # there was something to learn
    assert difference(trained("--batch-size", "2", "--update-freq", "2", *options), together, begun) < 1e-5


def test_recomputed_activations_change_nothing(trained: Callable[..., Weights]) -> None:
    """With dropout: what is recomputed drops the same."""
    options = ("--batch-size", "4", "--max-update", "3", "--dropout", "0.1", "--attention-dropout", "0.1")
    plain, again = trained(*options), trained(*options, "--checkpoint-activations")
    assert all((plain[name] == again[name]).all() for name in plain)
