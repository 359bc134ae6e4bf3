"""How true the figures of turn-taking are that detectors give, on made conversations whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.events import KINDS, EventList, Events
from speechdlm_ext.metrics.intervals import Interval
from speechdlm_ext.metrics.turn_taking import find_events_of_many
from speechdlm_ext.synthetic.dialogue import SAMPLE_RATE, SpeechSource, Wave, make_noise, simulate_dialogue
from speechdlm_ext.vad.energy import detect_speech_of_channels
from speechdlm_ext.vad.silero import detect_speech_silero

Speech = list[list[Interval]]
_NO_NOISE = (-300.0, -300.0)  # dB re full scale


@dataclass(frozen=True)
class Setting:
    """What is done to the sound of clean conversations, whose speech is at -26 dB re full scale.

    Attributes:
        noise: kind: ``coloured`` (from white to low-pass), ``white``, ``pink``, or ``hum`` (50 Hz and harmonics).
        levels: of the noise of each channel, drawn uniformly, dB re full scale.
        gains: of the speech of each channel, dB.
        crosstalk: of each channel in the other, dB; None for none.
        delay: seconds by which it comes later: an echo.
        sample_rate: Hz.
    """

    noise: str = "coloured"
    levels: tuple[float, float] = (-75.0, -65.0)
    gains: tuple[float, float] = (0.0, 0.0)
    crosstalk: float | None = None
    delay: float = 0.0
    sample_rate: int = SAMPLE_RATE


SETTINGS = {
    "noise -75 … -65 dB": Setting(),
    "noise -65 … -55 dB": Setting(levels=(-65.0, -55.0)),
    "noise -55 … -45 dB": Setting(levels=(-55.0, -45.0)),
    "noise -45 … -40 dB": Setting(levels=(-45.0, -40.0)),
    "white, -37 … -35 dB": Setting("white", (-37.0, -35.0)),
    "pink, -55 … -45 dB": Setting("pink", (-55.0, -45.0)),
    "hum, -50 … -40 dB": Setting("hum", (-50.0, -40.0)),
    "both channels 20 dB less": Setting(levels=(-95.0, -65.0), gains=(-20.0, -20.0)),
    "one channel 20 dB less": Setting(gains=(0.0, -20.0)),
    "crosstalk of -30 dB": Setting(levels=(-75.0, -60.0), crosstalk=-30.0),
    "8 kHz": Setting(levels=(-65.0, -55.0), sample_rate=8000),
    "44.1 kHz": Setting(levels=(-70.0, -55.0), sample_rate=44100),
    "crosstalk of -20 dB": Setting(levels=(-75.0, -60.0), crosstalk=-20.0),
    "echo of -25 dB, 125 ms late": Setting(levels=(-75.0, -60.0), crosstalk=-25.0, delay=0.125),
}


DETECTORS: dict[str, Callable[[NDArray[np.float32], int], Speech]] = {
    "silero": detect_speech_silero,
    "energy": detect_speech_of_channels,
}


def make_talk(
    source: SpeechSource, setting: Setting, seconds: float, rng: np.random.Generator
) -> tuple[Speech, NDArray[np.float32]]:
    """One conversation: the truth of each channel, and its sound (2, N) at the setting's sample rate."""
    import torch

    from speechdlm_ext.io.audio import resample

    talk = simulate_dialogue(source, seconds, rng, noise_levels=_NO_NOISE)
    wave = talk.wave * (10 ** (np.array(setting.gains, np.float32) / 20))[:, None]
    if setting.crosstalk is not None:
        late = np.pad(wave[::-1], ((0, 0), (round(setting.delay * SAMPLE_RATE), 0)))[:, : wave.shape[1]]
        wave = wave + np.float32(10 ** (setting.crosstalk / 20)) * late
    noise = [draw_noise(setting.noise, wave.shape[1], float(rng.uniform(*setting.levels)), rng) for _ in wave]
    sound = torch.from_numpy((wave + np.stack(noise)).astype(np.float32))
    return [talk.speech(0), talk.speech(1)], resample(sound, SAMPLE_RATE, setting.sample_rate).numpy()


def draw_noise(kind: str, length: int, level: float, rng: np.random.Generator) -> Wave:
    """Noise (length,) at 16 kHz of ``level`` dB re full scale; ``kind`` as in :class:`Setting`."""
    if kind in ("coloured", "white"):
        return make_noise(length, level, float(rng.uniform(0.3, 0.9)) if kind == "coloured" else 0.0, rng)
    if kind == "pink":
        spectrum = np.fft.rfft(rng.standard_normal(length))
        hertz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(hertz, 20.0)), length)
    elif kind == "hum":
        time = np.arange(length) / SAMPLE_RATE
        noise = 0.05 * rng.standard_normal(length)
        for harmonic in range(1, 9):
            size, phase = rng.uniform(0.2, 1) / harmonic, rng.uniform(0, 2 * np.pi)
            noise += size * np.sin(2 * np.pi * 50 * harmonic * time + phase)
    else:
        raise ValueError(f"no such noise: {kind}")
    return (noise * (10 ** (level / 20) / np.sqrt(np.mean(noise**2)))).astype(np.float32)


@dataclass(frozen=True)
class Accuracy:
    """Found against true, of all conversations of a setting.

    Attributes:
        boundaries: share of the true beginnings and ends of IPUs that have one found within 100 ms on their channel.
        counts: for each kind of event, by its name in figures, how many there are and how many were found.
        seconds: likewise their seconds.
    """

    boundaries: float
    counts: dict[str, tuple[int, int]]
    seconds: dict[str, tuple[float, float]]

    def deviation(self, kind: str, of: str = "counts") -> float:
        """Found over true, less 1; of events of which there are none, as if there were one."""
        true, found = getattr(self, of)[kind]
        return found / max(true, 1) - 1


def measure(
    source: SpeechSource,
    setting: Setting,
    seed: Sequence[int],
    conversations: int,
    seconds: float = 60.0,
    detectors: Iterable[str] = tuple(DETECTORS),
) -> dict[str, Accuracy]:
    """Accuracy of each detector on conversations that are drawn from ``seed``."""
    names, truths = list(detectors), []
    found: dict[str, list[Speech]] = {name: [] for name in names}
    for number in range(conversations):
        truth, wave = make_talk(source, setting, seconds, np.random.default_rng([*seed, number]))
        truths.append(truth)
        for name in names:
            found[name].append(DETECTORS[name](wave, setting.sample_rate))
    true = find_events_of_many([(speech, seconds) for speech in truths])
    return {name: compare(true, find_events_of_many([(s, seconds) for s in found[name]])) for name in names}


def compare(true: Events, found: Events, within: float = 0.1) -> Accuracy:
    """Accuracy of events that were found where others are true; boundaries ``within`` seconds."""
    pairs = {name: (getattr(true, kind), getattr(found, kind)) for kind, name in KINDS.items()}
    near = np.concatenate([*_near(true.ipus, found.ipus, within), np.zeros(0, bool)])
    return Accuracy(
        float(near.mean()) if len(near) else 1.0,
        {name: (len(one), len(other)) for name, (one, other) in pairs.items()},
        {name: (float(one.durations.sum()), float(other.durations.sum())) for name, (one, other) in pairs.items()},
    )


def _near(true: EventList, found: EventList, within: float) -> Iterator[NDArray[np.bool_]]:
    """Whether each true beginning, then each true end, has one found near it on its channel of its conversation."""
    for conversation in np.unique(true.conversation):
        for channel in range(true.channels.shape[1]):
            wanted = (true.conversation == conversation) & true.channels[:, channel]
            there = (found.conversation == conversation) & found.channels[:, channel]
            for one, other in ((true.start, found.start), (true.end, found.end)):
                apart = np.abs(one[wanted][:, None] - other[there])
                yield apart.min(axis=1, initial=np.inf) <= within


COLUMNS = ("ipu", "pause", "gap", "overlap", "turn", "backchannel", "interruption")


def table_row(name: str, accuracy: Accuracy) -> str:
    """A row of a Markdown table: boundaries, deviations of the numbers, and the greatest one of the seconds."""
    cells = [f"{accuracy.boundaries:.0%}"]
    for kind in COLUMNS:
        rare = f" of {accuracy.counts[kind][0]}" if kind in ("backchannel", "interruption") else ""
        cells.append(f"{round(100 * accuracy.deviation(kind)):+d} %{rare}".replace("+0 %", "0 %"))
    worst = max((accuracy.deviation(kind, "seconds") for kind in ("ipu", "pause", "gap", "overlap")), key=abs)
    return f"| {name} | " + " | ".join([*cells, f"{round(100 * worst):+d} %".replace("+0 %", "0 %")]) + " |"


def table_head() -> list[str]:
    """The first two rows of the table."""
    kinds = [f"{kind}s".capitalize().replace("Ipus", "IPUs") for kind in COLUMNS]
    titles = ["Setting", "Boundaries", *kinds, "Seconds"]
    return ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
