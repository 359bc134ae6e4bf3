"""Evaluation of SALM as a recogniser: answers for all conversations of a file, word errors, speed."""

import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from speechdlm_ext.data.conversations import Conversation, iter_conversations
from speechdlm_ext.data.salm_dataset import SALMDataset
from speechdlm_ext.errors import InputError
from speechdlm_ext.hub import SALM
from speechdlm_ext.io.manifest import write_jsonl
from speechdlm_ext.io.resume_log import ResumeLog
from speechdlm_ext.metrics.words import error_rates, normalise
from speechdlm_ext.modules.devices import open_device

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class SALMEvalOptions:
    """Options of ``scripts/salm_eval.py``, given as ``name=value``.

    Attributes:
        pretrained_name: folder, ``.nemo`` file, checkpoint of fairseq-train, or published name.
        inputs: manifest, lhotse's cuts, or conversations, whose last turn is the reference.
        batch_size: conversations at a time.
        max_new_tokens: of an answer.
        output_manifest: JSON lines to write; empty for none.
        use_normalizer: ``english`` (Whisper's, where transformers is installed, else ``basic``), ``basic`` or ``none``.
        device, dtype: where, and in which precision (``float32``, ``bfloat16``).
        extra_eos_tokens: texts of further tokens that end an answer.
        system_prompt, user_prompt: of what comes from manifests and cuts.
    """

    pretrained_name: str = MISSING
    inputs: str = MISSING
    batch_size: int = 64
    max_new_tokens: int = 128
    output_manifest: str = "generations.jsonl"
    use_normalizer: str = "english"
    device: str = ""
    dtype: str = "float32"
    extra_eos_tokens: Any = None
    system_prompt: str = ""
    user_prompt: str = ""


def evaluate_salm(options: Any, progress: Callable[[Sequence[Any]], Any] = lambda batches: batches) -> dict[str, float]:
    """Answer, compare, and write ``{id, duration, text, pred_text}`` lines, the longest first.

    Stopped anywhere and started again, it goes on after the last batch.

    Args:
        options: as in :class:`SALMEvalOptions`.
        progress: wraps the batches.

    Returns:
        ``wer`` in percent, with ``insertions``, ``deletions`` and ``substitutions``, each over the reference words;
        ``words``; ``rtfx``: seconds of audio for one of computing, of what this call computed.

    Raises:
        InputError: an option, the model or the inputs are invalid.
    """
    if options.dtype not in DTYPES or options.batch_size < 1:
        raise InputError(
            f"dtype={options.dtype} batch_size={options.batch_size}: expected {', '.join(DTYPES)}; 1 or more"
        )
    normalizer = build_normalizer(options.use_normalizer)
    model = SALM.from_pretrained(options.pretrained_name)
    model = model.to(device=open_device(options.device), dtype=DTYPES[options.dtype]).eval()
    collate = SALMDataset(model.tokenizer, model.audio_locator_tag, model.cfg["prompt_format"], model.sampling_rate)
    found = iter_conversations(options.inputs, model.audio_locator_tag, options.user_prompt, options.system_prompt)
    conversations = sorted(found, key=lambda one: -one.seconds)
    longest = model.max_positions() or math.inf
    for one in conversations:
        positions, _ = collate.measure(one.without_answer(), model.perception.output_frames)
        if positions > longest:
            raise InputError(
                f"{options.inputs}: conversation {one.id}: {positions} positions of text and audio, the language model "
                f"has {longest}: use shorter audio"
            )
    batches = [conversations[at : at + options.batch_size] for at in range(0, len(conversations), options.batch_size)]
    target = Path(options.output_manifest) if options.output_manifest else None
    names = ("pretrained_name", "inputs", "batch_size", "max_new_tokens", "dtype", "user_prompt", "system_prompt")
    settings = {name: str(getattr(options, name)) for name in names}
    log = ResumeLog(target.with_name(target.name + ".partial"), settings) if target else None
    answers: list[list[str]] = []
    computed = seconds = 0.0
    with log or nullcontext():
        for number, batch in enumerate(progress(batches)):
            if log and str(number) in log.entries:
                answers.append(log.entries[str(number)])
                continue
            start = time.perf_counter()
            answers.append(_answer(model, collate, batch, options))
            computed, seconds = computed + time.perf_counter() - start, seconds + sum(one.seconds for one in batch)
            if log:
                log.add(str(number), answers[-1])
    rows = [
        {
            "id": one.id,
            "duration": round(one.seconds, 3),
            "text": normalizer(one.answer),
            "pred_text": normalizer(text),
        }
        for batch, texts in zip(batches, answers, strict=True)
        for one, text in zip(batch, texts, strict=True)
    ]
    if target and log:
        write_jsonl(target, rows)
        log.remove()
    words = error_rates([str(row["text"]) for row in rows], [str(row["pred_text"]) for row in rows])["words"]
    share = 100 / max(words["reference"], 1)
    figures = {name: words[name] * share for name in ("insertions", "deletions", "substitutions")}
    rtfx = seconds / computed if computed else float("nan")
    return {"wer": sum(figures.values()), **figures, "words": words["reference"], "rtfx": rtfx}


def _answer(model: SALM, collate: SALMDataset, batch: Sequence[Conversation], options: Any) -> list[str]:
    waves = [audio.read(model.sampling_rate) for one in batch for audio in one.audios]
    audios = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True) if waves else None
    lens = torch.tensor([len(wave) for wave in waves]) if waves else None
    extra = [model.tokenizer.text_to_ids(text)[0] for text in options.extra_eos_tokens or []]
    ends = {"eos_token_id": [model.tokenizer.eos_id, *extra]} if extra else {}
    prompts = [one.as_prompt() for one in batch]
    found = model.generate(prompts, audios, lens, max_new_tokens=options.max_new_tokens, **ends)
    return [model.tokenizer.ids_to_text(row) for row in found]


def build_normalizer(name: str) -> Callable[[str], str]:
    """What texts are brought to before they are compared; raises :class:`InputError` for an unknown name."""
    if name in ("", "none", "None"):
        return lambda text: " ".join(text.split())
    if name == "basic":
        return normalise
    if name != "english":
        raise InputError(f"use_normalizer={name}: expected english, basic or none")
    try:
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
    except ImportError:
        return normalise
    english = EnglishTextNormalizer({})
    return lambda text: re.sub(r"\s+", " ", english(text)).strip()
