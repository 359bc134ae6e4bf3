"""Masks of spectrograms beside NeMo's, and what ours promise besides."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speechdlm_ext.modules.spec_augment import PUBLISHED, SpectrogramAugmentation, uniform_numbers
from tests.helpers.host_syncs import counted_syncs

BANDS, FRAMES = 64, 150


@pytest.fixture(scope="module")
def reference(data: Path) -> Any:
    return np.load(data / "reference" / "nemo" / "spec_augment.npz")


def test_rectangles_equal_the_reference(reference: Any) -> None:
    """The reference draws integers; ours come from uniform numbers, given here so that the integers are the same."""
    drawn = random.Random(int(reference["seed"]))
    sizes = {"cutout": (5, 120, 50), "cutout_small": (5, 25, 15)}
    for name, (masks, rect_time, rect_freq) in sizes.items():
        if name != "cutout":
            drawn = random.Random(int(reference["seed"]))
        rows = []
        for _ in range(3):
            row = []
            for _ in range(masks):
                for top in (BANDS - rect_freq, FRAMES - rect_time, rect_freq, rect_time):
                    row.append((drawn.randint(0, top) + 0.5) / (top + 1))
            rows.append(row)
        augment = SpectrogramAugmentation(rect_masks=masks, rect_time=rect_time, rect_freq=rect_freq)
        mask = augment.mask(torch.tensor(rows), torch.full((3,), FRAMES), BANDS, FRAMES)
        assert (mask.numpy() == reference[name]).all(), name


@pytest.mark.parametrize(
    ("name", "kind"), [("specaug_vectorized", "matchboxnet"), ("specaug_vectorized_adaptive", "marblenet_20ms")]
)
def test_bands_equal_the_reference(reference: Any, name: str, kind: str) -> None:
    options = {key: value for key, value in PUBLISHED[kind].items() if not key.startswith("rect")}
    augment = SpectrogramAugmentation(**options)
    torch.manual_seed(int(reference["seed"]))
    times, bands = options["time_masks"], options["freq_masks"]
    numbers = torch.cat([torch.rand(3, count) for count in (times, times, bands, bands)], dim=1)
    mask = augment.mask(numbers, torch.from_numpy(reference["length"]), BANDS, FRAMES)
    assert (mask.numpy() == reference[name]).all()


@pytest.mark.parametrize("kind", PUBLISHED)
def test_a_row_alone_is_the_row_in_a_batch(kind: str) -> None:
    augment = SpectrogramAugmentation(**PUBLISHED[kind]).train()
    lengths = torch.tensor([90, 300, 40])
    features = torch.randn(3, BANDS, 300)
    numbers = torch.stack([uniform_numbers((1, 7, row), augment.numbers) for row in range(3)])
    together = augment(features, lengths, numbers)
    for row, length in enumerate(lengths.tolist()):
        alone = augment(features[row : row + 1, :, :length], lengths[row : row + 1], numbers[row : row + 1])
        assert (alone == together[row : row + 1, :, :length]).all()
        assert (alone == 0).any() and (alone != 0).any()


def test_evaluation_changes_nothing_and_training_does_not_wait_for_the_device() -> None:
    augment = SpectrogramAugmentation(**PUBLISHED["quartznet"], freq_masks=1, time_masks=1, time_width=0.1)
    features, lengths = torch.randn(2, BANDS, FRAMES), torch.tensor([150, 30])
    assert augment.eval()(features, lengths) is features
    augment.train()
    with counted_syncs() as syncs:
        augment(features, lengths)
    assert not syncs
