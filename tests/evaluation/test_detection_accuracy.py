"""Figures of turn-taking from sound against their truth, on voices and seeds that no threshold was chosen on."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from speechdlm_ext.evaluation.detection_accuracy import (
    SETTINGS,
    Accuracy,
    compare,
    draw_noise,
    measure,
    table_head,
    table_row,
)
from speechdlm_ext.metrics.turn_taking import find_events
from speechdlm_ext.synthetic.espeak import EspeakSource
from speechdlm_ext.synthetic.recorded_speech import RecordingSource

pytest.importorskip("silero_vad")
RATES = ("ipu", "pause", "gap", "overlap", "overlap_between", "turn", "backchannel", "interruption")
CHOSEN = ("noise -45 … -40 dB", "noise -65 … -55 dB", "one channel 20 dB less", "crosstalk of -20 dB")


@pytest.fixture(scope="module")
def measured(data: Path) -> dict[str, list[Accuracy]]:
    """By detector, on a few minutes of each setting: voices of people, and synthetic ones where they are installed."""
    people = RecordingSource(data / "speech" / "librispeech_test_other")
    found: dict[str, list[Accuracy]] = {"silero": [], "energy": []}
    for number, name in enumerate(CHOSEN):
        synthetic = number == 0 and find_spec("espeakng_loader") is not None
        source = EspeakSource(["clara", "daniel"]) if synthetic else people
        for detector, accuracy in measure(source, SETTINGS[name], [5, number], 12).items():
            found[detector].append(accuracy)
    return found


@pytest.mark.parametrize("detector", ("silero", "energy"))
def test_boundaries_and_every_rate(measured: dict[str, list[Accuracy]], detector: str) -> None:
    """Nine boundaries in ten within 100 ms in each setting; each rate within a tenth of the truth, all together.

    docs/evaluation.md has what hours of talk give, by setting.
    """
    for name, accuracy in zip(CHOSEN, measured[detector], strict=True):
        assert accuracy.boundaries > 0.9, name
        for kind in ("ipu", "turn", "gap"):
            assert abs(accuracy.deviation(kind)) < 0.1, (name, kind)
    for kind in RATES:
        true, found = np.sum([accuracy.counts[kind] for accuracy in measured[detector]], axis=0)
        assert true >= 60 and found == pytest.approx(true, rel=0.1), kind
    for kind in ("ipu", "pause", "gap", "overlap"):
        true, found = np.sum([accuracy.seconds[kind] for accuracy in measured[detector]], axis=0)
        assert found == pytest.approx(true, rel=0.1), kind


def test_comparison_by_hand() -> None:
    true = find_events([[(1, 2), (3, 4), (6, 7)], [(4.5, 5)]], 10)
    found = find_events([[(1.05, 2.2), (3, 4)], [(4.5, 5.1), (8, 9)]], 10)
    accuracy = compare(true, found)
    assert accuracy.boundaries == pytest.approx(5 / 8)  # 2.2 is too late; nothing is near 6 and 7
    assert accuracy.counts["ipu"] == (4, 4) and accuracy.seconds["ipu"] == pytest.approx((3.5, 3.75))
    assert accuracy.counts["pause"] == (1, 2) and accuracy.deviation("pause") == 1
    assert accuracy.deviation("pause", "seconds") == pytest.approx((0.8 + 2.9) / 1.0 - 1)
    assert compare(true, find_events([[], []], 10)).boundaries == 0
    row = table_row("by hand", accuracy)
    assert row.startswith("| by hand | 62% | 0 % | +100 % |") and row.count("|") == table_head()[0].count("|")


@pytest.mark.parametrize("kind", ("coloured", "white", "pink", "hum"))
def test_noise_has_its_level(kind: str) -> None:
    noise = draw_noise(kind, 32000, -40.0, np.random.default_rng(1))
    assert 10 * np.log10(np.mean(noise.astype(np.float64) ** 2)) == pytest.approx(-40, abs=0.3)
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = power[:800].sum(), power[8000:].sum()  # below 400 Hz, and above 4 kHz
    assert {"white": high > 5 * low, "coloured": high < 16 * low, "pink": low > 2 * high, "hum": low > 50 * high}[kind]
