"""Streams of duplex models: a step beside the 80 ms that it may take, and ten minutes of a conversation."""

from __future__ import annotations

import io
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.comparison import Comparison, seconds
from benchmarks.sides import Settings
from benchmarks.worker import peak_memory

FRAME = 1280  # samples: 80 ms
# SmolLM2-135M; random weights take the same time.
LLM = {
    "model_type": "rotary", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3,
}  # fmt: skip
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "duplex_s2s_small.model.yaml"


def measure(settings: Settings) -> Iterator[Comparison]:
    """A step of a stream with a language model of 135 million weights, beside 80 ms; the first and the tenth minute."""
    import torch

    if settings.threads:
        torch.set_num_threads(settings.threads)
    count = settings.rounds or 50
    for name, prepare in (
        ("fp32", lambda model: model),
        ("bf16", lambda model: model.to(torch.bfloat16)),
        ("int8", lambda model: model.to_int8()),
    ):
        if name == "int8" and settings.device == "cuda":
            continue
        model = prepare(_model(LLM, settings.device))
        for when, past in (("", 0), ("-full", 1499)):
            stream = model.streaming()
            _remember(model, stream, past)
            times = _steps(stream, count + 5)[5:]
            yield Comparison(f"duplex-step-{name}{when}", [80.0], [1000 * time for time in times], "ms")
    yield from _ten_minutes(settings)


def _ten_minutes(settings: Settings) -> Iterator[Comparison]:
    """The small model of the documentation, its context of two minutes full from the third on."""
    stream = _model({}, settings.device).streaming()
    minutes, memory = [], []
    for _ in range(10):
        minutes.append([1000 * time for time in _steps(stream, 750)])
        memory.append(peak_memory({"device": settings.device}))
    for number, before in ((10, 1), (10, 3)):
        values = [[statistics.median(minutes[which - 1])] for which in (before, number)]
        yield Comparison(f"duplex-minute-{number}-beside-{before}", *values, "ms")
        yield Comparison(
            f"duplex-minute-{number}-beside-{before}-memory", [memory[before - 1]], [memory[number - 1]], "GB"
        )


def _steps(stream: Any, count: int) -> list[float]:
    import torch

    chunks = 0.1 * torch.randn(count, 1, FRAME)
    return [seconds(lambda chunk=chunk: stream.step(chunk).tokens.tolist()) for chunk in chunks]


def _remember(model: Any, stream: Any, frames: int) -> None:
    """Fill a stream's context with frames of anything."""
    import torch

    from speechdlm_ext.modules.backbone import run_backbone

    core = model.model
    if frames:
        user = torch.randn(1, frames, core.perception.output_dim, dtype=next(core.perception.parameters()).dtype)
        text = torch.zeros(1, frames, dtype=torch.long)
        codes = torch.zeros(1, frames, core.codebooks, dtype=torch.long)
        with torch.no_grad():
            x = core.embed(user.to(core.device), text.to(core.device), codes.to(core.device))
            run_backbone(core.llm, x, cache=stream.state.cache)


def _model(llm: dict[str, Any], device: str) -> Any:
    """The model of configs/duplex_s2s_small.model.yaml, perhaps with another language model."""
    import sentencepiece
    import torch

    from speechdlm_ext.encoders.logmel import LogMelEncoder
    from speechdlm_ext.hub.duplex import DuplexS2SModel
    from speechdlm_ext.units.codebook import Codebook

    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config["pretrained_llm"].update(llm)
    config["perception"]["output_dim"] = config["pretrained_llm"]["hidden_size"]
    words, pieces = "one two three four five six seven eight nine ten", io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([words, *words.split()]), model_writer=pieces, vocab_size=40, hard_vocab_limit=False,
        unk_id=0, bos_id=1, eos_id=2, pad_id=3, minloglevel=2,
    )  # fmt: skip
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "tokenizer.model").write_bytes(pieces.getvalue())
        codebook = Codebook(torch.randn(50, 40) - 5, "logmel", LogMelEncoder().options, 50.0)
        codebook.save(folder / "codebook.safetensors")
        return DuplexS2SModel(config, folder).eval().to(device)
