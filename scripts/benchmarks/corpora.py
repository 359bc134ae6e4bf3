"""The pipelines over a corpus, from the start of the command to its files, beside AMELA's loops (amela.py)."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison, in_turns
from benchmarks.sides import Settings

CHECKOUT = Path(__file__).resolve().parents[2]
ROUNDS = 3
_SUBREAPER = 36  # of prctl(2)
SHORTEST, STEP = 2.0, 0.02  # seconds of the first file, and how much longer each one is than that before it
LAYER, UNITS = 3, 100
ENCODER = {"encoder_layers": 4, "encoder_embed_dim": 256, "encoder_ffn_embed_dim": 1024, "encoder_attention_heads": 4}


def detect(settings: Settings) -> Iterator[Comparison]:
    """600 files, 80 min of speech: ten-vad by detect_speech.py on all cores, and AMELA's loop; and the cores' load."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = recordings(folder / "audio", 600)
        busy: list[float] = []

        def ours() -> float:
            shutil.rmtree(folder / "out", ignore_errors=True)
            words = [CHECKOUT / "data_prep" / "detect_speech.py", folder / "audio", folder / "out" / "all"]
            wall, cpu = timed([*words, "--num-workers", cores])
            busy.append(cpu / wall / cores)
            return len(files) / wall

        def amela() -> float:
            return len(files) / loop("detect", files=files, output=str(folder / "amela.csv"))

        rates = in_turns(amela, ours, settings.rounds or ROUNDS, warm_up=0)
        bound = min(2.0, 0.9 * cores)
        yield Comparison(
            "detect", *rates, "files/s", more_is_better=True, bound=f"at least {bound:g} times",
            keeps=lambda baseline, ours: ours >= bound * baseline,
        )  # fmt: skip
        yield Comparison(
            "detect: cores busy", [1 / cores] * len(busy), busy, "of all", more_is_better=True, bound="at least 0.9",
            keeps=lambda _, ours: ours >= 0.9,
        )  # fmt: skip


def resynthesize(settings: Settings) -> Iterator[Comparison]:
    """80 files by a small HuBERT, 100 units and a small HiFi-GAN: resynthesize.py; AMELA's loop without and with f0."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = recordings(folder / "audio", 80)
        models = _models(folder)
        manifest = _manifest(folder / "m.jsonl", files)
        words = [
            CHECKOUT / "scripts" / "resynthesize.py", manifest, "audio", "--output", folder / "out", "--device", "cpu",
            "--encoder-checkpoint", models["encoder"], "--codebook", folder / "codebook.safetensors", "--vocoder",
            "hifigan", "--vocoder-checkpoint", folder / "vocoder" / "generator.pt",
        ]  # fmt: skip

        def ours() -> float:
            shutil.rmtree(folder / "out", ignore_errors=True)
            return len(files) / timed(words)[0]

        def amela(f0: bool) -> Callable[[], float]:
            common = {"files": files, "output": str(folder / "amela"), "f0": f0, "layer": LAYER}
            return lambda: len(files) / loop("resynthesize", **common, **models)

        pitch = [True] if find_spec("amfm_decompy") else []
        for f0 in [False, *pitch]:
            rates = in_turns(amela(f0), ours, settings.rounds or ROUNDS, warm_up=0)
            yield Comparison(f"resynthesize{', pitch' * f0}", *rates, "files/s", more_is_better=True)


def transcribe(settings: Settings) -> Iterator[Comparison]:
    """200 files by a small wav2vec-CTC model: transcribe.py, alone and in batches; AMELA's loop in batches of 8."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = recordings(folder / "audio", 200)
        sys.path.insert(0, str(CHECKOUT))
        from tests.helpers.ctc_checkpoints import small_recogniser

        asr = small_recogniser(folder / "asr", **ENCODER)
        manifest = _manifest(folder / "m.jsonl", files)

        command = CHECKOUT / "scripts" / "transcribe.py"
        words = [command, manifest, folder / "out.jsonl", "--device", "cpu", "--asr", asr, "--overwrite"]

        def ours(*options: str) -> Callable[[], float]:
            return lambda: len(files) / timed([*words, *options])[0]

        def amela() -> float:
            return len(files) / loop("transcribe", files=files, output=str(folder / "amela.json"), asr=asr, batch=8)

        for name, options in (("transcribe", ()), ("transcribe, batches of 60 s", ("--batch-seconds", "60"))):
            rates = in_turns(amela, ours(*options), settings.rounds or ROUNDS, warm_up=0)
            yield Comparison(name, *rates, "files/s", more_is_better=True)


def timed(words: list[Any]) -> tuple[float, float]:
    """Seconds from the start to the end of a command of Python, and seconds that all its processes ran on the cores."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    if sys.platform == "linux":  # so that the server of its worker processes is waited for here when it has ended
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *map(str, words)], env=environment, stdout=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - start
    with suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def loop(name: str, **settings: Any) -> float:
    """Seconds of one of AMELA's loops."""
    return timed([Path(__file__).with_name("amela.py"), name, json.dumps(settings)])[0]


def recordings(folder: Path, count: int) -> list[str]:
    """Speech at 16 kHz, from that of the tests, in files of 2 s and more."""
    import numpy as np
    import soundfile

    folder.mkdir()
    parts = [soundfile.read(path) for path in sorted((CHECKOUT / "tests" / "data" / "speech").rglob("*.flac"))]
    sound = np.concatenate([part if part.ndim == 1 else part[:, 0] for part, rate in parts if rate == 16000])
    files = []
    for number in range(count):
        length = round((SHORTEST + STEP * number) * 16000)
        start = number * 7919 % (len(sound) - length)
        files.append(str(folder / f"{number:03d}.wav"))
        soundfile.write(files[-1], sound[start : start + length], 16000, "PCM_16")
    return files


def _manifest(path: Path, files: list[str]) -> Path:
    path.write_text("".join(json.dumps({"audio_filepath": file}) + "\n" for file in files))
    return path


def _models(folder: Path) -> dict[str, str]:
    """A HuBERT, centroids and a unit HiFi-GAN with random weights, as both sides read them."""
    import numpy as np
    import torch
    from fairseq.models.text_to_speech.codehifigan import CodeGenerator

    from benchmarks.encoding import hubert_checkpoint
    from benchmarks.vocoding import CONFIG
    from speechdlm_ext.encoders.hubert import HubertEncoder
    from speechdlm_ext.io.audio import read_audio
    from speechdlm_ext.units.codebook import Codebook

    encoder = HubertEncoder(hubert_checkpoint(folder / "hubert.pt", **ENCODER), LAYER)
    features = encoder.encode(read_audio(folder / "audio" / "000.wav")[0][0], 16000)
    torch.manual_seed(1)
    centroids = features[torch.randint(len(features), (UNITS,))] + 0.1 * torch.randn(UNITS, encoder.dim)
    Codebook(centroids).for_encoder(encoder).save(folder / "codebook.safetensors")
    np.save(folder / "centers.npy", centroids.numpy())
    config = {**CONFIG, "upsample_initial_channel": 128, "num_embeddings": UNITS}
    (folder / "vocoder").mkdir()
    (folder / "vocoder" / "config.json").write_text(json.dumps(config))
    torch.save({"generator": CodeGenerator(config).state_dict()}, folder / "vocoder" / "generator.pt")
    paths = {"encoder": "hubert.pt", "centers": "centers.npy", "vocoder": "vocoder"}
    return {name: str(folder / path) for name, path in paths.items()}
