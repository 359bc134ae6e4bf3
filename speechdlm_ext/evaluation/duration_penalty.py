"""The effect of the duration penalty on units: a figure of one utterance, and a table of many."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from speechdlm_ext.encoders.logmel import LogMelEncoder
from speechdlm_ext.errors import InputError, optional_import
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.recordings import recording_blocks
from speechdlm_ext.metrics.units import unit_figures
from speechdlm_ext.units.codebook import Codebook
from speechdlm_ext.units.quantizer import DPDPQuantizer

_COLOURS = 96  # of the PNG file, which is then a third as large; no difference is visible


def units_by_penalty(
    rows: Sequence[Mapping[str, Any]], codebook: Codebook, penalties: Sequence[float], num_neighbors: int | None = None
) -> dict[float, list[torch.Tensor]]:
    """The units (T,) of every channel of the recordings of a manifest, with each penalty.

    Raises:
        InputError: a penalty is negative, or a recording cannot be read.
    """
    encoder = codebook.build_encoder()
    quantizers = {penalty: DPDPQuantizer(codebook, penalty, num_neighbors) for penalty in penalties}
    units: dict[float, list[torch.Tensor]] = {penalty: [] for penalty in penalties}
    for row in rows:
        features = encoder.encode_blocks(recording_blocks(row, encoder.sample_rate))
        for penalty, quantizer in quantizers.items():
            units[penalty] += quantizer.quantize_batch(list(features))
    return units


def penalty_table(units: Mapping[float, Sequence[torch.Tensor]], frame_rate: float) -> str:
    """Units per second, their mean length and the bitrate for each penalty, as a table in Markdown.

    Args:
        units: by penalty, the units (T_i,) of the same recordings.
        frame_rate: Hz.
    """
    lines = ["| λ | units/s | mean length, ms | bitrate, bit/s |", "|---|---|---|---|"]
    for penalty, found in units.items():
        figures: dict[str, Any] = unit_figures([[one.numpy()] for one in found], frame_rate)["all"]
        cells = (f"{figures['unit_rate']:.1f}", f"{1000 * figures['mean_run']:.0f}", f"{abs(figures['bitrate']):.0f}")
        lines.append(f"| {penalty:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_boundaries(
    wave: torch.Tensor,
    units: Mapping[float, torch.Tensor],
    frame_rate: float,
    span: tuple[float, float],
    path: str | os.PathLike[str],
) -> None:
    """The spectrogram of a part of an utterance, once for each penalty, with a line where the unit changes.

    Args:
        wave: samples (N,) at 16 kHz.
        units: by penalty, the units (T,) of the whole utterance.
        frame_rate: of the units, Hz.
        span: what is shown, from and to, in seconds.
        path: PNG file to write.

    Raises:
        InputError: the span is not in the utterance, or matplotlib is missing.
    """
    with optional_import("figures need matplotlib", "eval"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from PIL import Image
    start, end = span
    if not 0 <= start < end <= len(wave) / LogMelEncoder.sample_rate:
        raise InputError(f"{start:g} to {end:g} s is not in a recording of {len(wave) / 16000:.2f} s")
    levels = LogMelEncoder(n_mels=80, floor_db=-45.0).encode(wave, LogMelEncoder.sample_rate).T
    figure = Figure(figsize=(9, 0.5 + 1.25 * len(units)), dpi=100, layout="constrained")
    panels = figure.subplots(len(units), 1, sharex=True, squeeze=False)[:, 0]
    whole = (0.0, levels.shape[1] / LogMelEncoder.frame_rate, 0.0, 80.0)
    for panel, (penalty, found) in zip(panels, units.items(), strict=True):
        panel.imshow(levels, origin="lower", aspect="auto", cmap="magma", extent=whole, interpolation="nearest")
        changes = torch.nonzero(found[1:] != found[:-1])[:, 0] + 1
        times = [time for time in (changes / frame_rate).tolist() if start < time < end]
        panel.vlines(times, 0, 80, colors="white", linewidth=0.9)
        panel.set_title(f"λ = {penalty:g}: {(len(times) + 1) / (end - start):.1f} units/s", loc="left", fontsize=9)
        panel.set_yticks([])
        panel.set_ylabel("mel band", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.set_xlim(start, end)
    panels[-1].set_xlabel("time, s", fontsize=9)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    with atomic_write(path, "wb") as file:
        image.quantize(_COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
