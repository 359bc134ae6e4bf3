"""Recordings to units, all of it, beside the bare forward pass of the encoder on the same batches."""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.comparison import Comparison, in_turns, seconds
from benchmarks.sides import Settings

ROUNDS = 3
RATE = 22050  # Hz, so that there is resampling to do
UNITS, LAYER, PENALTY = 500, 12, 3.0
SHARE = 0.85


def measure(settings: Settings) -> list[Comparison]:
    """HuBERT base with 12 blocks and the penalized quantizer (K = 500): files to units, and the forward pass alone."""
    settings.check()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        rates = process.submit(_measure, settings.device, settings.threads, settings.rounds or ROUNDS).result()
    bound = f"at least {SHARE:.0%}"
    keeps = lambda bare, ours: ours >= SHARE * bare  # noqa: E731
    return [Comparison("encode", *rates, "× real time", more_is_better=True, bound=bound, keeps=keeps)]


def _measure(device: str, threads: int, rounds: int) -> tuple[list[float], list[float]]:
    import torch

    from speechdlm_ext.encoders.chunking import group_by_length
    from speechdlm_ext.encoders.hubert import HubertEncoder
    from speechdlm_ext.io.audio import read_audio
    from speechdlm_ext.units import DPDPQuantizer
    from speechdlm_ext.units.encoding import encode_rows

    if threads:
        torch.set_num_threads(threads)
    gpu = device == "cuda"
    batch_seconds = 480.0 if gpu else 0.0  # as encode_units.py has it
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = _recordings(folder, 1000 if gpu else 6)
        encoder = HubertEncoder(hubert_checkpoint(folder / "hubert.pt"), LAYER).to(device)
        (folder / "hubert.pt").unlink()
        waves = [read_audio(row["audio_filepath"], encoder.sample_rate)[0] for row in rows]
        groups = [[place] for place in range(len(rows))]
        if batch_seconds:
            groups = group_by_length(
                [(wave.shape[1] / encoder.sample_rate, len(wave)) for wave in waves], batch_seconds
            )
        batches = [_padded([waves[place] for place in group], device) for group in groups]
        total = sum(wave.shape[1] for wave in waves) / encoder.sample_rate
        features = encoder.encode(waves[0][0], encoder.sample_rate)
        centroids = features[torch.randint(len(features), (UNITS,))] + 0.1 * torch.randn(UNITS, encoder.dim)
        quantizer = DPDPQuantizer(centroids, PENALTY)

        @torch.no_grad()
        def bare() -> None:
            for sounds, lengths in batches:
                encoder.model(sounds, lengths)
            if gpu:
                torch.cuda.synchronize()

        def whole() -> None:
            for encoded in encode_rows(rows, encoder, quantizer, batch_seconds=batch_seconds):
                assert encoded.error is None, encoded.error

        return in_turns(lambda: total / seconds(bare), lambda: total / seconds(whole), rounds)


def _recordings(folder: Path, count: int) -> list[dict[str, Any]]:
    """Noise of 2 to 4 s, with a manifest's rows."""
    import numpy as np
    import soundfile

    chance = np.random.default_rng(1)
    rows = []
    for number in range(count):
        sound = 0.1 * chance.standard_normal(round(chance.uniform(2, 4) * RATE))
        path = folder / f"{number}.flac"
        soundfile.write(path, sound, RATE)
        rows.append({"id": str(number), "audio_filepath": str(path), "channels": 1, "duration": len(sound) / RATE})
    return rows


def _padded(waves: list[Any], device: str) -> tuple[Any, list[int]]:
    """A batch (B, N) of recordings' channels, and how many samples of each count."""
    import torch

    channels = [channel for wave in waves for channel in wave]
    return torch.nn.utils.rnn.pad_sequence(channels, batch_first=True).to(device), list(map(len, channels))


def hubert_checkpoint(path: Path, **options: Any) -> Path:
    """HuBERT base, or with other options, as fairseq makes it and saves it, with random weights."""
    import torch
    from fairseq.data import Dictionary
    from fairseq.models.hubert.hubert import HubertConfig, HubertModel

    torch.manual_seed(1)
    model = HubertModel(HubertConfig(label_rate=50.0, **options), SimpleNamespace(sample_rate=16000), [Dictionary()])
    task = {"_name": "hubert_pretraining", "sample_rate": 16000, "normalize": False}
    torch.save({"cfg": {"model": {"_name": "hubert", **options}, "task": task}, "model": model.state_dict()}, path)
    return path
