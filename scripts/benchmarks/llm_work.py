"""What a worker does with SALM and DuplexS2S: steps of training, and generating; NeMo's and ours; see worker.py.

It runs in NeMo's environment and in ours alike. Both build a model with random weights of the folder that
:mod:`speech_llms` writes, and get the same sound and tokens.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

Work = Callable[[], dict[str, float]]
RATE, TARGET_RATE, FRAME = 16000, 22050, 0.08
NEW_TOKENS = 32


def training(settings: dict[str, Any]) -> Work:
    """Perception, codec, language model, loss, backward pass and AdamW on ``rows`` of ``seconds`` of noise."""
    model = _model(settings).train()
    batch = _batch(settings, model)
    losses = {"nemo": _nemo_loss, "salm": _salm_loss, "duplex": _duplex_loss}
    loss_of = losses["nemo" if settings["side"] == "nemo" else settings["kind"]](model)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-4)

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return _timed(settings, step)


def generating(settings: dict[str, Any]) -> Work:
    """SALM's answers of 32 tokens, or a duplex model's to all of the sound."""
    model = _model(settings).eval()
    batch = _batch(settings, model)
    if settings["kind"] == "duplex":
        said = lambda: model.offline_inference(batch["source_audio"], batch["source_audio_lens"])  # noqa: E731
        return _timed(settings, said)
    prompt = [{"role": "user", "content": f"repeat {model.audio_locator_tag}"}]
    asked = {"prompts": [prompt] * settings["rows"], "audios": batch["audios"], "audio_lens": batch["audio_lens"]}
    if settings["side"] == "nemo":
        from transformers import GenerationConfig

        length = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS, "pad_token_id": 0}
        asked["generation_config"] = GenerationConfig(do_sample=False, bos_token_id=1, eos_token_id=2, **length)
    else:
        asked |= {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
    return _timed(settings, lambda: model.generate(**asked))


def _timed(settings: dict[str, Any], action: Callable[[], object]) -> Work:
    # Of one thread the time on the processor: a step of 30 ms takes three times as long beside other work.
    clock = time.process_time if settings["threads"] == 1 else time.perf_counter

    def work() -> dict[str, float]:
        start = clock()
        action()
        seconds = clock() - start
        return {"seconds": seconds, "sound": settings["rows"] * settings["seconds"]}

    return work


def _model(settings: dict[str, Any]) -> Any:
    folder = Path(settings["folder"])
    os.chdir(folder)  # where paths in the configuration begin
    cfg = json.loads((folder / f"{settings['kind']}.json").read_text(encoding="utf-8"))
    torch.manual_seed(1)
    if settings["side"] == "nemo":
        from nemo.collections.speechlm2.models import SALM, DuplexS2SModel

        model = (SALM if settings["kind"] == "salm" else DuplexS2SModel)(cfg)
        for name, weight in model.named_parameters():  # as its configure_optimizers does, which needs a Trainer
            weight.requires_grad_(not any(re.match(pattern, name) for pattern in cfg["freeze_params"]))
        return model
    from speechdlm_ext.hub import SALM as OwnSALM
    from speechdlm_ext.hub import DuplexS2SModel as OwnDuplex

    return OwnSALM(cfg, folder) if settings["kind"] == "salm" else OwnDuplex(cfg, folder)


def _batch(settings: dict[str, Any], model: Any) -> dict[str, Any]:
    torch.manual_seed(2)
    rows, seconds = settings["rows"], settings["seconds"]
    wave, lengths = 0.1 * torch.randn(rows, round(seconds * RATE)), torch.full((rows,), round(seconds * RATE))
    if settings["kind"] == "salm":
        ids = torch.randint(10, 200, (rows, 40))
        ids[:, 5] = model.audio_locator_tag_id
        mask = torch.zeros(rows, 40, dtype=torch.bool)
        mask[:, 20:] = True
        batch: dict[str, Any] = {"audios": wave, "audio_lens": lengths, "input_ids": ids, "loss_mask": mask}
        if settings["side"] == "ours":  # in fairseq-train the collater lays out positions, in another process
            from speechdlm_ext.data.splicing import splice

            frames, pad = model.perception.output_frames(lengths), model.tokenizer.pad_id
            batch["layout"] = splice(ids, frames, mask, model.audio_locator_tag_id, pad)
        return batch
    samples, frames = round(seconds * TARGET_RATE), round(seconds / FRAME)
    tokens = torch.randint(10, 200, (rows, frames))
    return {
        "source_audio": wave, "source_audio_lens": lengths.int(), "target_audio": 0.1 * torch.randn(rows, samples),
        "target_audio_lens": torch.full((rows,), samples, dtype=torch.int32), "target_tokens": tokens,
        "target_token_lens": torch.full((rows,), frames), "source_tokens": tokens,
        "source_token_lens": torch.full((rows,), frames),
    }  # fmt: skip


def _nemo_loss(model: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda batch: model.training_step(batch, 0)["loss"]


def _salm_loss(model: Any) -> Callable[[dict[str, Any]], Any]:
    def loss(batch: dict[str, Any]) -> Any:
        logits, extra = model(**batch)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), extra["target"].flatten(), ignore_index=-100)

    return loss


def _duplex_loss(model: Any) -> Callable[[dict[str, Any]], Any]:
    from speechdlm_ext.criterions.duplex_criterion import DuplexCriterion

    criterion = DuplexCriterion(SimpleNamespace(ids=model.model.ids), 3.0, 4.0)

    def loss(batch: dict[str, Any]) -> Any:
        found, size, _ = criterion(model, {"net_input": {"batch": batch}, "ntokens": 0, "nsentences": 0})
        return found / size

    return loss
