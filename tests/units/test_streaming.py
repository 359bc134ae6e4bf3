"""Units that come out while sound comes in: the same as of the whole, as early as can be, or within a bound."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.units import DPDPQuantizer, StreamingQuantizer


def push_all(stream: StreamingQuantizer, features: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    parts = [stream.push(part) for part in features.split(sizes)]
    return torch.cat([*parts, stream.finish()])


def cuts(frames: int, seed: int) -> list[int]:
    """Sizes of pushes, some of them of no frames."""
    places = torch.randint(0, frames + 1, (frames // 3,), generator=torch.Generator().manual_seed(seed)).sort().values
    return torch.diff(places, prepend=torch.tensor([0]), append=torch.tensor([frames])).tolist()


def case(seed: int, frames: int, units: int, penalty: float, neighbours: int) -> tuple[torch.Tensor, DPDPQuantizer]:
    """Features and centroids of few digits, whose distances are exact however they are computed."""
    generator = torch.Generator().manual_seed(seed)
    features = (torch.randn(frames, 3, generator=generator) * 8).round() / 8
    centroids = (torch.randn(units, 3, generator=generator) * 8).round() / 8
    return features, DPDPQuantizer(centroids, penalty, min(neighbours, units))


CASES = {
    "seed": st.integers(0, 10**6), "frames": st.integers(1, 80), "units": st.integers(1, 9),
    "penalty": st.floats(0.01, 12), "neighbours": st.integers(1, 9),
}  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(**CASES)
def test_without_a_bound_it_is_the_whole(seed: int, frames: int, units: int, penalty: float, neighbours: int) -> None:
    features, quantizer = case(seed, frames, units, penalty, neighbours)
    stream = StreamingQuantizer(quantizer)
    wanted = quantizer.units(features)
    assert torch.equal(push_all(stream, features, cuts(frames, seed)), wanted)
    assert stream.pending == 0
    assert torch.equal(push_all(stream, features, cuts(frames, seed + 1)), wanted), "a second utterance"


@settings(deadline=None, max_examples=40)
@given(**CASES)
def test_units_come_as_soon_as_nothing_can_change_them(
    seed: int, frames: int, units: int, penalty: float, neighbours: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features, centroids = torch.randn(frames, 3, generator=generator), torch.randn(units, 3, generator=generator)
    quantizer = DPDPQuantizer(centroids, penalty, min(neighbours, units))
    stream = StreamingQuantizer(quantizer)
    given_out = 0
    paths: list[list[int]] = []
    costs: list[float] = []
    for frame in features:
        given_out += len(stream.push(frame[None]))
        # All paths that may still become the best, written out.
        row = next(quantizer.distances(frame.device).tables([frame[None]]))[0, :units].double()
        allowed = row.sort(stable=True).indices[: quantizer.num_neighbors].tolist()
        if not paths:
            paths, costs = [[unit] for unit in range(units)], [0.0] * units
        else:
            best = min(range(units), key=costs.__getitem__)
            stays = [costs[unit] - costs[best] <= penalty for unit in range(units)]
            paths = [[*paths[unit if stays[unit] else best], unit] for unit in range(units)]
            costs = [costs[unit] if stays[unit] else costs[best] + penalty for unit in range(units)]
        costs = [costs[unit] + float(row[unit]) if unit in allowed else float("inf") for unit in range(units)]
        alive = [path for path, total in zip(paths, costs, strict=True) if total - min(costs) <= penalty]
        common = 0
        while common < len(alive[0]) and len({path[common] for path in alive}) == 1:
            common += 1
        assert given_out == common


@settings(deadline=None, max_examples=60)
@given(latency=st.integers(0, 20), **CASES)
def test_a_bound_is_kept_however_it_is_cut(
    latency: int, seed: int, frames: int, units: int, penalty: float, neighbours: int
) -> None:
    features, quantizer = case(seed, frames, units, penalty, neighbours)
    found = []
    for sizes in ([1] * frames, cuts(frames, seed), [frames]):
        stream = StreamingQuantizer(quantizer, latency)
        parts, came = [], 0
        for part in features.split(sizes):
            parts.append(stream.push(part))
            came += len(part)
            assert stream.pending == came - sum(map(len, parts)) <= latency
        found.append(torch.cat([*parts, stream.finish()]))
    assert len(found[0]) == frames
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    distances = (features.double()[:, None] - quantizer.codebook.double()).square().sum(dim=2)
    chosen = distances.gather(1, found[0][:, None])
    assert int((distances < chosen - 1e-6).sum(dim=1).max()) < (quantizer.num_neighbors or units), "a neighbour"
    if latency >= frames:
        assert torch.equal(found[0], quantizer.units(features))


def test_real_features(data: Path) -> None:
    wave, rate = read_audio(data / "speech" / "jfk" / "jfk.flac", 16000)
    features = LogMelEncoder().encode(wave[0], rate)
    centroids = features[torch.randperm(len(features), generator=torch.Generator().manual_seed(1))[:100]]
    quantizer = DPDPQuantizer(centroids, 300.0)
    wanted = quantizer.units(features)
    stream = StreamingQuantizer(quantizer)
    waits, parts = [], []
    for frame in features:
        parts.append(stream.push(frame[None]))
        waits.append(stream.pending)
    assert torch.equal(torch.cat([*parts, stream.finish()]), wanted)
    assert max(waits) < 60, "the last second is all that has to be waited for"
    nearest = StreamingQuantizer(DPDPQuantizer(centroids, 0.0))
    assert torch.equal(nearest.push(features[:100]), DPDPQuantizer(centroids, 0.0).units(features[:100]))

    def cost(units: torch.Tensor) -> float:
        distances = (features - centroids[units]).double().square().sum()
        return float(distances + 300.0 * (units[1:] != units[:-1]).sum())

    costs = [
        cost(push_all(StreamingQuantizer(quantizer, latency), features, [50] * (len(features) // 50))) / cost(wanted)
        for latency in (0, 1, 5, 25)
    ]
    assert costs[0] > costs[2] >= costs[3] >= 1 and costs[3] < 1.001


def test_bad_input() -> None:
    with pytest.raises(InputError, match="-1"):
        StreamingQuantizer(DPDPQuantizer(torch.zeros(2, 3), 1.0), -1)
    with pytest.raises(InputError, match="width 3"):
        StreamingQuantizer(DPDPQuantizer(torch.zeros(2, 3), 1.0)).push(torch.zeros(4, 2))
