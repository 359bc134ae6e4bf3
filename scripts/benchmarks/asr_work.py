"""What a worker does with QuartzNet: steps of training, and transcribing; NeMo's and ours; see worker.py.

It runs in NeMo's environment and in ours alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

Work = Callable[[], dict[str, float]]
RATE = 16000
LETTERS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]


def training(settings: dict[str, Any]) -> Work:
    """Features, masks, forward, CTC, backward and Novograd on ``rows`` of ``seconds`` of noise, with random texts."""
    model, step = (_nemo_step if settings["side"] == "nemo" else _our_step)(settings)
    waves = _waves(settings)
    lengths = torch.full((len(waves),), waves.shape[1])
    symbols = torch.randint(len(LETTERS), (len(waves), round(12 * settings["seconds"])))
    batch = [
        each.to(settings["device"]) for each in (waves, lengths, symbols, torch.full((len(waves),), symbols.shape[1]))
    ]
    model.train().to(settings["device"])
    return _timed(settings, lambda: step(*batch))


def transcribing(settings: dict[str, Any]) -> Work:
    """``transcribe()`` of as many arrays, ``batch_size`` at once."""
    waves = [wave.numpy() for wave in _waves(settings)]
    if settings["side"] == "nemo":
        model = _nemo(settings).eval().to(settings["device"])
        return _timed(settings, lambda: model.transcribe(waves, batch_size=settings["rows"], verbose=False))
    from speechdlm_ext.hub import CTCModel

    own = CTCModel.from_pretrained(settings["file"]).to(settings["device"])
    return _timed(settings, lambda: own.transcribe(waves, batch_size=settings["rows"]))


def _waves(settings: dict[str, Any]) -> torch.Tensor:
    torch.manual_seed(1)
    return 0.1 * torch.randn(settings["rows"], round(settings["seconds"] * RATE))


def _nemo(settings: dict[str, Any]) -> Any:
    from nemo.collections.asr.models import EncDecCTCModel

    return EncDecCTCModel.restore_from(settings["file"], map_location="cpu")


def _nemo_step(settings: dict[str, Any]) -> tuple[Any, Callable[..., None]]:
    from nemo.core.optim import Novograd

    model = _nemo(settings)
    optimizer = Novograd(model.parameters(), lr=0.01, betas=(0.8, 0.5), weight_decay=0.001)

    def step(waves: Any, lengths: Any, symbols: Any, sizes: Any) -> None:
        optimizer.zero_grad()
        scores, frames, _ = model(input_signal=waves, input_signal_length=lengths)
        loss = model.loss(log_probs=scores, targets=symbols, input_lengths=frames, target_lengths=sizes)
        loss.backward()
        optimizer.step()

    return model, step


def _our_step(settings: dict[str, Any]) -> tuple[Any, Callable[..., None]]:
    from speechdlm_ext.modules.conv_speech_files import load_network
    from speechdlm_ext.optim.novograd import Novograd

    model = load_network(settings["file"]).network.requires_grad_(True)
    optimizer = Novograd(model.parameters(), lr=0.01, betas=(0.8, 0.5), weight_decay=0.001)

    def step(waves: Any, lengths: Any, symbols: Any, sizes: Any) -> None:
        optimizer.zero_grad()
        scores, frames = model(waves, lengths)
        torch.nn.functional.ctc_loss(
            scores.transpose(0, 1), symbols, frames, sizes, len(LETTERS), zero_infinity=True
        ).backward()
        optimizer.step()

    return model, step


def _timed(settings: dict[str, Any], action: Callable[[], object]) -> Work:
    from worker import peak_memory, wait

    def measure() -> dict[str, float]:
        wait(settings)
        start = time.perf_counter()
        action()
        wait(settings)
        sound = settings["rows"] * settings["seconds"]
        return {"seconds": time.perf_counter() - start, "sound": sound, "memory": peak_memory(settings)}

    return measure
