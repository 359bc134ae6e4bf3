"""Probabilities to intervals beside what NeMo's code gave."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from speechdlm_ext.vad.binarization import binarize, filter_intervals, smooth_overlaps


@pytest.fixture(scope="module")
def folder(data: Path) -> Path:
    return data / "reference/nemo"


def test_intervals_are_nemos(folder: Path) -> None:
    reference = np.load(folder / "vad_post.npz")
    for case, options in json.loads((folder / "vad_post.json").read_text()).items():
        shift = options.pop("frame_length_in_sec", 0.01)
        filters = {
            "min_speech": options.pop("min_duration_on", 0.0), "min_silence": options.pop("min_duration_off", 0.0),
            "speech_first": bool(options.pop("filter_speech_first", 1.0)),
        }  # fmt: skip
        found = binarize(reference["probs"], shift, **options, last_frame=False)
        np.testing.assert_allclose(found, reference[f"{case}_binarized"], atol=1e-6)
        np.testing.assert_allclose(filter_intervals(found, **filters), reference[f"{case}_filtered"], atol=1e-6)


@pytest.mark.parametrize("method", ["mean", "median"])
@pytest.mark.parametrize("overlap", [0.875, 0.5])
def test_smoothing_is_nemos(folder: Path, method: str, overlap: float) -> None:
    reference = np.load(folder / "vad_post.npz")
    wanted = reference[f"overlap_{method}_{overlap}"]
    found = smooth_overlaps(reference["probs"][: len(wanted)], int(0.63 / 0.01 + 1), overlap, method)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_nothing_gives_nothing() -> None:
    assert (
        binarize([], 0.01) == []
        and binarize([0.9], 0.01, last_frame=False) == []
        and len(smooth_overlaps([], 64, 0.5)) == 0
    )
    assert binarize([0.2, 0.9, 0.9], 0.1) == [(pytest.approx(0.1), pytest.approx(0.3))]
