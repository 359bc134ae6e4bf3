"""An update is the same however its batches are cut, and however its activations are kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.helpers.training import EVERYTHING, Weights, difference

pytestmark = pytest.mark.commands


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
    options = ("--batch-size", "4", "--dropout", "0.1", "--attention-dropout", "0.1")
    plain, again = trained(*options), trained(*options, "--checkpoint-activations")
    assert all((plain[name] == again[name]).all() for name in plain)


PRECISIONS = [
    pytest.param(["--amp"], 1e-5, id="amp"),  # on a CPU that is fp32
    pytest.param(["--bf16"], 0.02, id="bf16"),  # 8 bits: 0.4 % for each weight, and for what is summed up in gradients
    pytest.param(
        ["--fp16"],
        0.005,
        id="fp16",
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason="--fp16 trains on a GPU only, and there is none"
        ),
    ),
]


@pytest.mark.parametrize(("options", "tolerance"), PRECISIONS)
def test_other_number_formats_make_nearly_the_same_update(
    trained: Callable[..., Weights], start: Callable[..., Weights], options: list[str], tolerance: float
) -> None:
    """All weights together, in a step so large that the rounding of weights which are stored does not matter."""
    large = ["--lr", "2", "--batch-size"]
    expected, found, begun = trained(*large, "4"), trained(*large, "2", "--update-freq", "2", *options), start()
    moved, apart = (
        torch.cat([(weights[name].double() - other[name].double()).flatten() for name in expected]).norm()
        for weights, other in ((expected, begun), (found, expected))
    )
    assert float(moved) > 1
    assert float(apart / moved) < tolerance
