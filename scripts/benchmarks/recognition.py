"""QuartzNet 15x5 beside NeMo's, the same weights and the same sound, each in its environment."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.comparison import Comparison, in_turns
from benchmarks.environments import nemo
from benchmarks.sides import Settings, ours

ROWS = {"cpu": 4, "cuda": 32}
SECONDS = 8.0
BORDERS = 4  # typed modules in a training step: features, encoder, decoder, loss


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


def types(settings: Settings) -> list[Comparison]:
    """Processor time of a training step of the smallest model (MatchboxNet, one second) and of its type checks."""
    import torch

    from speechdlm_ext.modules.conv_speech import LABEL, ConvSpeech, configuration
    from speechdlm_ext.neural_types import (
        AcousticEncodedRepresentation,
        LengthsType,
        NeuralType,
        SpectrogramType,
        disable_checks,
        typecheck,
    )

    class Border(torch.nn.Module):
        """Takes and gives what an encoder does, at no cost but that of the check."""

        @typecheck(
            {"features": NeuralType(("B", "D", "T"), SpectrogramType()), "lengths": NeuralType(("B",), LengthsType())},
            {"x": NeuralType(("B", "D", "T"), AcousticEncodedRepresentation()), "valid": NeuralType(("B",))},
            positional=True,
        )
        def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return encoded, lengths

    torch.manual_seed(1)
    model, border = ConvSpeech(configuration("3x1x64", "matchboxnet"), LABEL, 30).train(), Border()
    wave, lengths, label = 0.1 * torch.randn(1, 16000), torch.tensor([16000]), torch.tensor([3])
    features, encoded = torch.zeros(1, 64, 100), torch.zeros(1, 128, 100)

    def step() -> float:
        start = time.process_time()
        torch.nn.functional.cross_entropy(model(wave, lengths).scores, label).backward()
        return 1000 * (time.process_time() - start)

    def calls() -> float:
        start = time.process_time()
        for _ in range(1000 * BORDERS):
            border(features, lengths)
        return time.process_time() - start

    def checks() -> float:
        checked = calls()
        with disable_checks():
            return checked - calls()

    bound, keeps = "checks at most 1 % of a step", lambda step, checks: checks <= 0.01 * step
    return [Comparison("types", *in_turns(step, checks, settings.rounds or 9), "ms", bound=bound, keeps=keeps)]


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
