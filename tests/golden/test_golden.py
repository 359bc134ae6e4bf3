"""Outputs frozen before the package was rearranged; README.md says how they were made and what was changed since."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

from tests.helpers.golden import GOLDEN, commands, write_manifest


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_manifest(tmp_path / "manifest.jsonl")
    return tmp_path


def run(name: str, work: Path, checkout: Path, run_loaded: Any) -> None:
    script, *options = commands(work)[name]
    run_loaded(["python", checkout / script, *options], cwd=work)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def units_of(path: Path) -> list[dict[str, str]]:
    """Names and units; a row may say more than it did."""
    return [
        {key: row[key] for key in row if key == "audio" or key.startswith(("unit", "duration"))}
        for row in rows_of(path)
    ]


def test_codebook(work: Path, checkout: Path, run_loaded: Any) -> None:
    run("codebook", work, checkout, run_loaded)
    found, frozen = (load_file(folder / "codebook.safetensors") for folder in (work, GOLDEN))
    assert found.keys() == frozen.keys()
    for name, values in frozen.items():
        np.testing.assert_allclose(found[name], values, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("name", ["units", "penalized"])
def test_units(work: Path, checkout: Path, run_loaded: Any, name: str) -> None:
    run(name, work, checkout, run_loaded)
    assert units_of(work / f"{name}.jsonl") == units_of(GOLDEN / f"{name}.jsonl")


def test_split(work: Path, checkout: Path, run_loaded: Any) -> None:
    run("split", work, checkout, run_loaded)
    for part in ("train", "valid"):
        assert units_of(work / "split" / f"{part}.jsonl") == units_of(GOLDEN / "split" / f"{part}.jsonl")
    for name in ("train.unitA", "valid.unitA", "dict.txt"):
        assert (work / "split" / name).read_bytes() == (GOLDEN / "split" / name).read_bytes(), name


def test_binarized_data(work: Path, checkout: Path, run_loaded: Any, data: Path) -> None:
    """What the public fairseq-preprocess wrote, byte by byte."""
    run("data-bin", work, checkout, run_loaded)
    for path in sorted((data / "reference" / "bin").iterdir()):
        assert (work / "data-bin" / path.name).read_bytes() == path.read_bytes(), path.name


def same_figures(found: Any, frozen: Any, place: str = "") -> None:
    """All figures that were there are there, with the same values."""
    if isinstance(frozen, dict):
        for key, value in frozen.items():
            assert key in found, f"{place}.{key} is missing"
            same_figures(found[key], value, f"{place}.{key}")
    elif isinstance(frozen, list):
        assert len(found) == len(frozen), place
        for number, value in enumerate(frozen):
            same_figures(found[number], value, f"{place}[{number}]")
    elif isinstance(frozen, float):
        assert math.isclose(found, frozen, rel_tol=1e-9, abs_tol=1e-9), f"{place}: {found}, not {frozen}"
    else:
        assert found == frozen, f"{place}: {found}, not {frozen}"


def test_turn_taking_of_an_annotation(work: Path, checkout: Path, run_loaded: Any) -> None:
    run("turn-taking", work, checkout, run_loaded)
    found, frozen = (json.loads((f / "metrics.json").read_text()) for f in (work / "metrics", GOLDEN))
    for result in (found, frozen):  # by channel: speakers had the order of their first words, now that of their labels
        del result["generated"]["speech_share"]
    same_figures(found["generated"], frozen["generated"])


def test_sound_of_units(work: Path, checkout: Path, run_loaded: Any) -> None:
    run("sound", work, checkout, run_loaded)
    (name,) = (path.name for path in (GOLDEN / "sound").iterdir())
    (found, rate), (frozen, frozen_rate) = (soundfile.read(f / "sound" / name) for f in (work, GOLDEN))
    assert rate == frozen_rate
    np.testing.assert_allclose(found, frozen, atol=1e-4)


def test_scores(work: Path, checkout: Path, run_loaded: Any) -> None:
    run("scores", work, checkout, run_loaded)
    found, frozen = ([line.split() for line in (f / "scores.txt").read_text().splitlines()] for f in (work, GOLDEN))
    assert [row[0] for row in found] == [row[0] for row in frozen]
    assert [float(row[1]) for row in found] == pytest.approx([float(row[1]) for row in frozen], abs=1e-3)


def test_most_probable_continuations(work: Path, checkout: Path, run_loaded: Any) -> None:
    run("samples", work, checkout, run_loaded)
    assert units_of(work / "samples.jsonl") == units_of(GOLDEN / "samples.jsonl")
