"""The duration-penalized quantizer: against all sequences, against a quadratic programme, and as a module."""

from __future__ import annotations

from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.units import Codebook, DPDPQuantizer
from speechdlm_ext.units.search import PathSearch


def random_case(seed: int, frames: int, units: int, dim: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Features, centroids and a penalty; every other one of whole numbers, which makes many sequences equally good."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(frames, dim, generator=generator) * 2
    centroids = torch.randn(units, dim, generator=generator) * 2
    penalty = float(torch.rand((), generator=generator)) * 8
    if seed % 2:
        return features.round(), centroids.round(), float(round(penalty))
    return features, centroids, penalty


def squared_distances(features: torch.Tensor, centroids: torch.Tensor) -> np.ndarray:
    """(T, K) in float64, by the definition."""
    return ((features.double()[:, None] - centroids.double()[None]) ** 2).sum(dim=2).numpy()


def only_nearest(distances: np.ndarray, count: int | None) -> np.ndarray:
    """The same with infinity at all but the ``count`` nearest, of equal ones the lowest."""
    kept = np.full_like(distances, np.inf)
    for frame, row in enumerate(distances):
        for unit in sorted(range(len(row)), key=lambda unit: (row[unit], unit))[:count]:
            kept[frame, unit] = row[unit]
    return kept


@cache
def all_sequences(frames: int, units: int) -> np.ndarray:
    """(K^T, T), in the order in which those with the lower last units come first."""
    return np.indices((units,) * frames).reshape(frames, -1)[::-1].T


def best_of_all(distances: np.ndarray, penalty: float) -> tuple[list[int], float]:
    """The first of the cheapest sequences in the order of the rule for ties."""
    sequences = all_sequences(*distances.shape)
    costs = distances[np.arange(len(distances)), sequences].sum(axis=1)
    costs = costs + penalty * (np.diff(sequences, axis=1) != 0).sum(axis=1)
    return sequences[costs.argmin()].tolist(), float(costs.min())


def cost(units: list[int], distances: np.ndarray, penalty: float) -> float:
    changes = sum(before != after for before, after in zip(units, units[1:], strict=False))
    return float(distances[np.arange(len(units)), units].sum()) + penalty * changes


@pytest.mark.commands
def test_the_best_of_all_sequences_in_1000_cases() -> None:
    draw = np.random.default_rng(1)
    for seed in range(1000):
        frames, units = int(draw.integers(1, 7)), int(draw.integers(1, 5))
        features, centroids, penalty = random_case(seed, frames, units, dim=int(draw.integers(1, 5)))
        distances = squared_distances(features, centroids)
        for neighbours in (None, int(draw.integers(1, units + 1))):
            allowed = distances if neighbours is None else only_nearest(distances, neighbours)
            expected, least = best_of_all(allowed, penalty)
            quantized, found = DPDPQuantizer(centroids, penalty, neighbours)(features)
            assert found.dtype == torch.int64 and torch.equal(quantized, centroids[found])
            assert found.tolist() == expected, (seed, neighbours)
            assert cost(found.tolist(), allowed, penalty) == pytest.approx(least, rel=1e-12)


def viterbi(table: np.ndarray, penalty: float) -> list[int]:
    """The optimum by a general Viterbi search over all pairs of units, O(T·K²), with the same rule for ties."""
    change = penalty * (1 - np.eye(table.shape[1]))
    costs, pointers = table[0].astype(float), []
    for row in table[1:]:
        ways = costs[:, None] + change
        pointers.append(ways.argmin(axis=0))
        costs = ways.min(axis=0) + row
    units = [int(costs.argmin())]
    for pointer in reversed(pointers):
        units.append(int(pointer[units[-1]]))
    return units[::-1]


@pytest.mark.parametrize("penalty", [0.5, 7.0, 200.0])
def test_the_search_is_a_viterbi_search_however_the_frames_come(penalty: float) -> None:
    for seed in range(60):
        draw = np.random.default_rng((seed, 5))
        units = int(draw.integers(1, 90))
        table = torch.from_numpy(draw.normal(0, 20, (int(draw.integers(1, 200)), units)).astype(np.float32))
        if seed % 2:
            table = table.round()
        neighbours = None if seed % 3 == 0 else int(draw.integers(1, units + 1))
        expected = viterbi(only_nearest(table.numpy(), neighbours), penalty)
        for size in (1000, 7):
            search = PathSearch(units, penalty, neighbours)
            for part in table.split(size):
                search.add(part)
            assert search.units().tolist() == expected, (seed, size)


def quadratic(distances: np.ndarray, penalty: float) -> list[int]:
    """The optimum in O(T²·K), as published: segments of one unit, each with a price of λ (1 - duration)."""
    frames = len(distances)
    sums = np.concatenate([np.zeros((1, distances.shape[1])), distances.cumsum(axis=0)])
    best, begins, units = np.zeros(frames + 1), [], []
    for end in range(1, frames + 1):
        segments = sums[end] - sums[:end]
        durations = end - np.arange(end)
        totals = best[:end] + segments.min(axis=1) + penalty * (1 - durations)
        begin = int(totals.argmin())
        best[end] = totals[begin]
        begins.append(begin)
        units.append(int(segments[begin].argmin()))
    found: list[int] = []
    end = frames
    while end:
        begin = begins[end - 1]
        found = [units[end - 1]] * (end - begin) + found
        end = begin
    return found


@pytest.fixture(scope="module")
def speech(data: Path) -> torch.Tensor:
    """Log-mel features (550, 40) of a recording."""
    wave, rate = read_audio(data / "speech" / "jfk" / "jfk.flac", 16000)
    return LogMelEncoder().encode(wave[0], rate)


@pytest.mark.parametrize("neighbours", [None, 4])
@pytest.mark.parametrize("penalty", [30.0, 300.0, 3000.0, 1e6])
def test_real_features_against_a_quadratic_programme(
    speech: torch.Tensor, penalty: float, neighbours: int | None
) -> None:
    centroids = speech[torch.randperm(len(speech), generator=torch.Generator().manual_seed(4))[:80]]
    distances = squared_distances(speech, centroids)
    found = DPDPQuantizer(centroids, penalty, neighbours).quantize(speech).tolist()
    if neighbours is None:
        assert found == quadratic(distances, penalty)
        return
    # Infinite sums cannot be taken apart again; a price that nothing else reaches can.
    allowed = only_nearest(distances, neighbours)
    expected = quadratic(np.where(np.isinf(allowed), 1e9, allowed), penalty)
    assert np.isfinite(cost(found, allowed, penalty))
    assert cost(found, allowed, penalty) == pytest.approx(cost(expected, allowed, penalty), rel=1e-9)


def test_no_penalty_is_the_nearest_centroid(speech: torch.Tensor) -> None:
    codebook = Codebook(speech[::7], "logmel", {"n_mels": 40}, 50.0)
    expected = squared_distances(speech, codebook.centroids).argmin(axis=1).tolist()
    for neighbours in (None, 3):
        assert DPDPQuantizer(codebook, 0, neighbours).quantize(speech).tolist() == expected
    assert codebook.quantize(speech).tolist() == expected
    # The least penalty there is changes the way, and nothing else.
    assert DPDPQuantizer(codebook, 1e-9).quantize(speech).tolist() == expected


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), frames=st.integers(1, 60), units=st.integers(1, 12), more=st.integers(1, 5))
def test_more_codes_cost_no_more(seed: int, frames: int, units: int, more: int) -> None:
    features, centroids, penalty = random_case(seed, frames, units + more, 3)
    distances = squared_distances(features, centroids)
    few, many = (
        cost(DPDPQuantizer(centroids[:count], penalty).quantize(features).tolist(), distances, penalty)
        for count in (units, units + more)
    )
    assert many <= few + 1e-4


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6), frames=st.integers(1, 60), units=st.integers(1, 12),
    neighbours=st.integers(1, 12), eighths=st.lists(st.integers(0, 240), min_size=2, max_size=4),
)  # fmt: skip
def test_higher_penalties_give_no_more_units(
    seed: int, frames: int, units: int, neighbours: int, eighths: list[int]
) -> None:
    features, centroids, _ = random_case(seed, frames, units, 3)
    runs = []
    for penalty in sorted(eighths):
        quantizer = DPDPQuantizer(centroids, penalty / 8, min(neighbours, units))
        runs.append(len(list(groupby(quantizer.quantize(features).tolist()))))
    assert runs == sorted(runs, reverse=True)


def test_an_hour_loses_no_digits() -> None:
    """A pattern that comes again has the same units in its last hour as in its first minute."""
    generator = torch.Generator().manual_seed(3)
    pattern = (torch.randn(600, 4, generator=generator) * 4).round() + 100
    centroids = (torch.randn(30, 4, generator=generator) * 4).round() + 100
    quantizer = DPDPQuantizer(centroids, 40.0)
    units = quantizer.quantize(pattern.repeat(300, 1)).view(300, 600)
    assert bool((units[1:-1] == units[1]).all())
    assert torch.equal(units[:3], quantizer.quantize(pattern.repeat(4, 1)).view(4, 600)[:3])
    assert 20 < int((units[1, 1:] != units[1, :-1]).sum()) < 400


def test_batches_with_lengths_are_the_single_ones(speech: torch.Tensor) -> None:
    quantizer = DPDPQuantizer(speech[::9], 400.0, 10)
    lengths = torch.tensor([550, 1, 0, 333])
    batch = torch.zeros(4, 550, 40)
    for row, length in zip(batch, lengths, strict=True):
        row[:length] = speech[-int(length) :] if length else speech[:0]
        row[length:] = float("nan")  # whatever is there must not be looked at
    quantized, units = quantizer(batch, lengths)
    assert units.shape == (4, 550) and units.dtype == torch.int64 and quantized.shape == batch.shape
    for row, length in enumerate(lengths.tolist()):
        alone = quantizer(batch[row, :length])
        assert torch.equal(units[row, :length], alone[1]) and torch.equal(quantized[row, :length], alone[0])
        assert bool((units[row, length:] == -1).all()) and not quantized[row, length:].any()
    parts = [batch[row, :length] for row, length in enumerate(lengths.tolist())]
    assert [found.tolist() for found in quantizer.quantize_batch(parts)] == [
        quantizer.quantize(part).tolist() for part in parts
    ]
    assert torch.equal(quantizer(batch[:1])[1][0], units[0])
    assert quantizer.quantize_batch([]) == []


def test_many_short_files_share_tables() -> None:
    features, centroids, _ = random_case(3, 3000, 8000, 4)  # 262 frames to a table
    quantizer = DPDPQuantizer(centroids, 3.0)
    parts = list(features.split([1, 250, 262, 263, 0, 5, 800, 1419]))
    assert torch.equal(
        torch.cat(quantizer.quantize_batch(parts)), torch.cat([quantizer.quantize(part) for part in parts])
    )


def test_gradient_goes_straight_through(speech: torch.Tensor) -> None:
    features = speech[:50].clone().requires_grad_()
    quantizer = DPDPQuantizer(speech[::20], 100.0)
    quantized, units = quantizer(features)
    assert torch.equal(quantized, speech[::20][units]) and not units.requires_grad
    weights = torch.randn(50, 40)
    (quantized * weights).sum().backward()
    assert features.grad is not None and torch.equal(features.grad, weights)
    batch = speech[:50].expand(2, 50, 40).clone().requires_grad_()
    quantizer(batch, torch.tensor([50, 20]))[0].sum().backward()
    assert batch.grad is not None and bool(batch.grad[0].eq(1).all())
    assert bool(batch.grad[1, :20].eq(1).all()) and not bool(batch.grad[1, 20:].any())


def test_state_dict_is_the_published_one(speech: torch.Tensor) -> None:
    quantizer = DPDPQuantizer(speech[:20], 100.0)
    before = quantizer.quantize(speech)
    assert list(quantizer.state_dict()) == ["codebook"]
    other = DPDPQuantizer(speech[200:220], 100.0)
    quantizer.load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(quantizer.quantize(speech), other.quantize(speech))
    assert not torch.equal(quantizer.quantize(speech), before)


def test_other_types_and_precisions(speech: torch.Tensor) -> None:
    """Whatever the features' type is, and what others allow to be rounded, distances are of float32."""
    offset = 3000.0  # with |x|² near 10^8, products rounded to eight bits would tell nothing
    rounded = speech.bfloat16().float() + offset
    centroids = rounded[::11]
    quantizer = DPDPQuantizer(centroids, 50.0)
    expected = quadratic(squared_distances(rounded, centroids), 50.0)
    assert quantizer.quantize(rounded).tolist() == expected
    assert quantizer.quantize(rounded.double()).tolist() == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert quantizer.quantize(rounded).tolist() == expected
    torch.set_float32_matmul_precision("medium")
    try:
        assert quantizer.quantize(rounded).tolist() == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    changed: list[str] = []
    setting = torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision = changed.append  # type: ignore[assignment]
    try:  # a setting for the whole process is not touched, not even for a moment
        assert quantizer.quantize(rounded).tolist() == expected and not changed
    finally:
        torch.set_float32_matmul_precision = setting
    half = DPDPQuantizer(speech[::11].bfloat16(), 50.0)
    quantized, units = half(speech.bfloat16())
    assert quantized.dtype == torch.bfloat16
    assert units.tolist() == half.quantize(speech.bfloat16().double()).tolist()
    with torch.inference_mode():
        assert DPDPQuantizer(centroids, 50.0)(rounded)[1].tolist() == expected


def test_one_unit_and_no_frames(speech: torch.Tensor) -> None:
    assert DPDPQuantizer(speech[:1], 5.0, 1).quantize(speech[:30]).tolist() == [0] * 30
    quantized, units = DPDPQuantizer(speech[:3], 5.0)(speech[:0])
    assert quantized.shape == (0, 40) and units.shape == (0,) and units.dtype == torch.int64
    assert DPDPQuantizer(speech[:3], 0)(speech[:0])[1].shape == (0,)


@pytest.mark.parametrize(
    ("penalty", "neighbours", "message"),
    [
        (-1.0, None, "-1"),
        (float("nan"), None, "nan"),
        (float("inf"), None, "inf"),
        (1.0, 6, "6.*1 to 5"),
        (1.0, 0, "0"),
        (1.0, 2.5, "2.5"),
    ],
)
def test_penalties_and_neighbours_out_of_range(penalty: float, neighbours: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DPDPQuantizer(torch.randn(5, 3), penalty, neighbours)


def test_features_that_do_not_fit() -> None:
    quantizer = DPDPQuantizer(torch.randn(5, 3), 1.0)
    for features, message in (
        (torch.zeros(4, 2), r"\(4, 2\).*width 3"),
        (torch.zeros(4), "expected"),
        (torch.full((4, 3), float("nan")), "finite"),
        (torch.tensor([[0.0, float("inf"), 0.0]]), "finite"),
        (torch.full((4, 3), 3e38), "float32"),
    ):
        with pytest.raises(InputError, match=message):
            quantizer(features)
    for lengths in ([5, 2], [2], [-1, 2]):
        with pytest.raises(InputError, match="lengths"):
            quantizer(torch.zeros(2, 4, 3), torch.tensor(lengths))
    with pytest.raises(InputError, match="expected"):
        quantizer(torch.zeros(4, 3), torch.tensor([4]))
    with pytest.raises(InputError, match="float32"):
        DPDPQuantizer(torch.tensor([[1e30], [-1e30]]), 1.0).quantize(torch.zeros(2, 1))


def test_compiles_where_nothing_can_be_kept(tmp_path: Path, checkout: Path, run_command) -> None:  # type: ignore[no-untyped-def]
    """Beside the file stands no folder but a file, and so in the home of the user."""
    copy = tmp_path / "search.py"
    copy.write_bytes((checkout / "speechdlm_ext" / "units" / "search.py").read_bytes())
    (tmp_path / "__pycache__").write_text("not a folder")
    code = (
        "import torch, search\n"
        "paths = search.PathSearch(2, 1.0)\n"
        "paths.add(torch.tensor([[0.0, 1.0], [5.0, 1.0]]))\n"
        "print(paths.units().tolist())\n"
    )
    environment = {"HOME": str(copy), "XDG_CACHE_HOME": str(copy), "PYTHONPATH": f"{tmp_path}:{checkout}"}
    environment |= {"NUMBA_CACHE_DIR": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = run_command(["python", "-c", code], env=environment)
    assert done.stdout == "[0, 1]\n"
