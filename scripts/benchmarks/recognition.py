"""QuartzNet 15x5 beside NeMo's, the same weights and the same sound, each in its environment."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.comparison import Comparison, in_turns
from benchmarks.environments import nemo
from benchmarks.sides import Settings, ours

ROWS = {"cpu": 4, "cuda": 32}
SECONDS = 8.0


def measure(settings: Settings) -> Iterator[Comparison]:
    """A training step of QuartzNet 15x5 on rows of 8 s, features included, and transcribing them, beside NeMo."""
    with tempfile.TemporaryDirectory() as folder:
        file = quartznet(Path(folder))
        for work, unit in (("train", "× real time"), ("transcribe", "× real time")):
            asked = {
                **settings.common(), "work": f"asr-{work}", "rows": ROWS[settings.device], "seconds": SECONDS,
                "file": str(file),
            }  # fmt: skip
            with nemo({**asked, "side": "nemo"}) as theirs, ours({**asked, "side": "ours"}) as own:
                rates = in_turns(
                    lambda theirs=theirs: theirs.rate("sound"), lambda own=own: own.rate("sound"), settings.rounds or 3
                )
            yield Comparison(f"asr-{work}", *rates, unit, more_is_better=True)


def quartznet(folder: Path) -> Path:
    """A model with random weights as a ``.nemo`` file, which both sides read."""
    import torch

    from benchmarks.asr_work import LETTERS
    from speechdlm_ext.asr.speech_model import SpeechModel
    from speechdlm_ext.asr.text_tokenizer import CharacterTokenizer
    from speechdlm_ext.checkpoints.conv_speech import write_speech_nemo
    from speechdlm_ext.modules.conv_speech import TEXT, ConvSpeech
    from speechdlm_ext.modules.conv_speech_configs import quartznet as configuration

    torch.manual_seed(1)
    symbols = tuple("|" if letter == " " else letter for letter in LETTERS)
    network = ConvSpeech(configuration(3), TEXT, len(symbols)).eval()
    file = folder / "quartznet.nemo"
    write_speech_nemo(SpeechModel(network, symbols, CharacterTokenizer(symbols), file), file)
    return file
