"""Whisper by transformers, a small random model: language and prompt reach it, rows do not see one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speechdlm_ext.asr import RecogniserOptions, build_recogniser

pytestmark = pytest.mark.commands

transformers = pytest.importorskip("transformers")

WAVE = np.sin(np.arange(40000) ** 1.3 / 40).astype(np.float32) * 0.3
SPECIAL = ["startoftranscript", "en", "fr", "translate", "transcribe", "startoflm", "startofprev", "nocaptions",
           "notimestamps", *(f"{0.02 * step:.2f}" for step in range(1501))]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whisper")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]
    vocabulary = {letter: number for number, letter in enumerate([*letters, "<|endoftext|>"])}
    tokenizer = transformers.WhisperTokenizer(vocab=vocabulary, merges=[], pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{name}|>" for name in SPECIAL]})

    def number(name: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(f"<|{name}|>"))

    end = number("endoftext")
    ids = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end} | {
        "decoder_start_token_id": number("startoftranscript")
    }
    sizes: dict[str, Any] = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
    }
    torch.manual_seed(1)
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer), d_model=16, max_target_positions=64, suppress_tokens=None,
        begin_suppress_tokens=None, **sizes, **ids,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model.generation_config = transformers.GenerationConfig(
        max_length=20, is_multilingual=True, no_timestamps_token_id=number("notimestamps"),
        prev_sot_token_id=number("startofprev"), alignment_heads=[[0, 0]],
        lang_to_id={f"<|{name}|>": number(name) for name in ("en", "fr")},
        task_to_id={name: number(name) for name in ("transcribe", "translate")}, **ids,
    )  # fmt: skip
    model.save_pretrained(path)
    transformers.WhisperProcessor(transformers.WhisperFeatureExtractor(), tokenizer).save_pretrained(path)
    return path


def test_language_and_prompt_reach_the_model_and_rows_are_alone(folder: Path) -> None:
    given = [{}, {"language": "en"}, {"language": "fr"}, {"language": "en", "prompt": "Dr"}]
    texts = []
    for options in given:
        recogniser = build_recogniser(RecogniserOptions(f"transformers:{folder}", device="cpu", **options))
        found = recogniser.recognise(WAVE)
        assert all(0 <= word.start <= word.end <= len(WAVE) / 16000 for word in found.words) and found.words
        texts.append(found.text)
    assert len({*texts[1:]}) == 3
    batch = torch.nn.functional.pad(torch.from_numpy(WAVE), (0, 8000)).expand(2, -1)
    assert recogniser.transcribe(batch, [len(WAVE), 48000])[0] == found
