"""The picture of unit boundaries has a line for each, and the table has the rates that can be counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.duration_penalty import draw_boundaries, penalty_table, units_by_penalty
from speechdlm_ext.units import Codebook, DPDPQuantizer


def white_lines(path: Path) -> list[int]:
    """Of each panel, in how many places a white line goes from top to bottom."""
    from PIL import Image

    picture = np.asarray(Image.open(path).convert("L")).astype(int)
    picture = picture[:, 60:-25]  # without the axes at both sides
    dark = (picture < 200).mean(axis=1) > 0.5
    rows = np.flatnonzero(np.diff(np.concatenate(([0], dark, [0]))))
    panels = [
        picture[start + 3 : end - 3] for start, end in zip(rows[::2], rows[1::2], strict=True) if end - start > 40
    ]
    bright = [(panel > 150).all(axis=0) for panel in panels]
    return [int(np.count_nonzero(np.diff(np.concatenate(([0], one.astype(int)))) == 1)) for one in bright]


@pytest.mark.commands
def test_a_line_for_each_change(tmp_path: Path) -> None:
    wave = 0.1 * torch.randn(32000, generator=torch.Generator().manual_seed(1))
    changing = torch.arange(100) // 10
    path = tmp_path / "picture.png"
    draw_boundaries(wave, {0.0: changing, 10.0: changing // 5, 99.0: changing * 0}, 50.0, (0.0, 2.0), path)
    assert white_lines(path) == [9, 1, 0]
    assert path.stat().st_size < 200_000
    with pytest.raises(InputError, match="1 to 3 s is not in a recording of 2.00 s"):
        draw_boundaries(wave, {0.0: changing}, 50.0, (1.0, 3.0), path)


def test_table() -> None:
    units = {0.0: [torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])], 5.0: [torch.tensor([3] * 8)]}
    # 4 runs in 0.16 s, one bit each; then one run, which tells nothing.
    assert penalty_table(units, 50.0).splitlines()[2:] == ["| 0 | 25.0 | 40 | 25 |", "| 5 | 6.2 | 160 | 0 |"]


@pytest.mark.commands
def test_units_of_a_manifest(data: Path) -> None:
    row = {"id": "a", "audio_filepath": str(data / "speech" / "ljspeech" / "LJ001-0002.flac"), "channels": 1}
    codebook = Codebook(10 * torch.randn(9, 40), encoder="logmel", options=LogMelEncoder().options, frame_rate=50.0)
    found = units_by_penalty([row, row], codebook, [0.0, 800.0], 3)
    assert [len(of) for of in found.values()] == [2, 2] and torch.equal(*found[800.0])
    from speechdlm_ext.io.audio import read_audio

    wave, rate = read_audio(row["audio_filepath"], 16000)
    features = LogMelEncoder().encode(wave[0], rate)
    assert torch.equal(found[800.0][0], DPDPQuantizer(codebook, 800.0, 3).quantize(features))
    assert torch.equal(found[0.0][0], codebook.quantize(features))
