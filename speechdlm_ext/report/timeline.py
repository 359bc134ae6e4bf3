"""A player with a timeline: every channel's waveform and speech on one time axis, followed and searched by playhead."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from numpy.typing import NDArray

from speechdlm_ext.metrics.intervals import Interval, total_seconds

_COLUMNS = 700  # points of a waveform: more than a phone and fewer than a screen shows
_HEIGHT = 56  # of a channel, in the drawing's units
_LANE = 10  # of the speech activity below it


@dataclass(frozen=True)
class Timeline:
    """What is heard and seen.

    Attributes:
        title: plain text.
        wave: samples (C, N), full scale 1.
        sample_rate: Hz.
        activity: for each channel its stretches of speech, (start, end) in seconds.
        parts: (name, start, end) of what is told apart on the axis, such as prompt and continuation, in seconds.
        note: plain text beside the title.
        channels: names of the channels.
    """

    title: str
    wave: NDArray[np.float32]
    sample_rate: int
    activity: Sequence[Sequence[Interval]]
    parts: Sequence[tuple[str, float, float]] = ()
    note: str = ""
    channels: Sequence[str] = field(default=("A", "B"))

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.wave.shape[1] / self.sample_rate

    def render(self) -> str:
        """The figure as HTML, with the sound in it."""
        label = escape(f"{self.title}, {self.duration:.1f} s")
        return (
            f'<figure class="timeline" data-duration="{self.duration:.4f}"><figcaption><b>{escape(self.title)}</b>'
            f"<span>{escape(self.note)}</span></figcaption>"
            f'<div class="track" role="slider" tabindex="0" aria-label="Position in {label}" aria-valuemin="0"'
            f' aria-valuemax="{self.duration:.1f}" aria-valuenow="0" aria-valuetext="0.0 s">'
            f'{self._parts()}<div class="channels">{"".join(map(self._channel, range(len(self.wave))))}</div>'
            f'<div class="playhead" hidden></div></div>{_axis(self.duration)}'
            f'<audio controls preload="metadata" src="{audio_uri(self.wave, self.sample_rate)}"></audio></figure>'
        )

    def _parts(self) -> str:
        spans = "".join(
            f'<span class="part part-{number}" style="left:{_percent(start, self.duration)};'
            f'width:{_percent(end - start, self.duration)}"><i>{escape(name)}</i></span>'
            for number, (name, start, end) in enumerate(self.parts)
        )
        return f'<div class="parts">{spans}</div>'

    def _channel(self, number: int) -> str:
        name = self.channels[number] if number < len(self.channels) else str(number + 1)
        share = total_seconds(self.activity[number]) / self.duration if self.duration else 0.0
        lanes = "".join(
            f'<rect class="speech" x="{_COLUMNS * a / self.duration:.2f}" y="{_HEIGHT + 2}" '
            f'width="{max(0.5, _COLUMNS * (b - a) / self.duration):.2f}" height="{_LANE - 4}" rx="2"/>'
            for a, b in self.activity[number]
        )
        return (
            f'<div class="channel channel-{number % 4}"><span class="name">{escape(name)}</span>'
            f'<svg viewBox="0 0 {_COLUMNS} {_HEIGHT + _LANE}" preserveAspectRatio="none" role="img" '
            f'aria-label="Channel {escape(name)}: speech in {100 * share:.0f} % of the time">'
            f'<path class="wave" d="{outline(self.wave[number])}"/>{lanes}</svg></div>'
        )


def outline(wave: NDArray[np.float32], columns: int = _COLUMNS, height: int = _HEIGHT) -> str:
    """Path of a waveform's envelope, mirrored about the middle.

    Levels are drawn on a square-root scale, so that soft speech is seen beside loud; full scale fills the height.

    Args:
        wave: samples (N,).
        columns: points.
        height: of the drawing.
    """
    if not len(wave):
        return f"M0 {height / 2}H{columns}"
    bounds = np.linspace(0, len(wave), columns + 1).astype(int)
    starts = np.minimum(bounds[:-1], len(wave) - 1)
    peaks = np.sqrt(np.clip(np.maximum.reduceat(np.abs(wave), starts), 0, 1)) * (height / 2 - 1)
    middle = height / 2
    upper = [f"{x} {middle - max(peak, 0.4):.1f}" for x, peak in enumerate(peaks)]
    lower = [f"{x} {middle + max(peak, 0.4):.1f}" for x, peak in reversed(list(enumerate(peaks)))]
    return "M" + "L".join(upper + lower) + "Z"


def audio_uri(wave: NDArray[np.float32], sample_rate: int) -> str:
    """Samples (C, N) as a data address: lossless (FLAC, 16 bits), which every current browser plays."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(wave.T, -1, 1), sample_rate, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole if whole else 0:.3f}%"


def _axis(duration: float) -> str:
    """Labels of the time axis: at most about eight, at round times."""
    step = next((s for s in (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600) if duration / s <= 8), 1800)
    marks = "".join(
        f'<span style="left:{_percent(number * step, duration)}">{number * step:g}</span>'
        for number in range(int(duration / step) + 1)
        if number * step <= duration * 0.93
    )
    return f'<div class="axis" aria-hidden="true">{marks}<em>s</em></div>'
