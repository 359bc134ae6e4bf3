"""A corpus of noise with what the commands over a corpus need."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.io.audio import write_audio
from speechdlm_ext.units.codebook import Codebook


def write_noise_corpus(folder: Path, lengths: Iterable[int]) -> Path:
    """``talk/NNN.wav`` of so many samples at 16 kHz, ``manifest.jsonl`` and ``codebook.safetensors`` in a folder."""
    rows = []
    for number, length in enumerate(lengths):
        path = folder / "talk" / f"{number:03d}.wav"
        wave = 0.3 * torch.randn(1, length, generator=torch.Generator().manual_seed(number))
        write_audio(path, wave.clamp(-1, 1), 16000)
        rows.append({"audio_filepath": str(path), "duration": length / 16000, "mine": number})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    encoder = LogMelEncoder()
    centroids = torch.randn(20, encoder.dim, generator=torch.Generator().manual_seed(1))
    Codebook(centroids).for_encoder(encoder).save(folder / "codebook.safetensors")
    return folder
