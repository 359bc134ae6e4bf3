"""Recognition by transformers' pipeline: a small random CTC model, against the model itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from speechdlm_ext.asr import RecogniserOptions, build_recogniser, transcribe_intervals
from speechdlm_ext.errors import InputError

transformers = pytest.importorskip("transformers")

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", "E", "T", "A", "O", "N"]
WAVE = np.sin(np.arange(40000) ** 1.3 / 40).astype(np.float32) * 0.3 + 0.05


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    (path / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(LETTERS)}))
    torch.manual_seed(1)
    config = transformers.Wav2Vec2Config(
        vocab_size=len(LETTERS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(16, 16, 16), conv_kernel=(10, 8, 8), conv_stride=(5, 8, 8), num_feat_extract_layers=3,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, pad_token_id=0,
    )  # fmt: skip
    model = transformers.Wav2Vec2ForCTC(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(path)
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(path / "vocab.json"))
    transformers.Wav2Vec2Processor(
        transformers.Wav2Vec2FeatureExtractor(do_normalize=False), tokenizer
    ).save_pretrained(path)
    return path


def test_words_and_times_are_those_of_the_models_frames(folder: Path) -> None:
    recogniser = build_recogniser(f"transformers:{folder}")
    model = transformers.Wav2Vec2ForCTC.from_pretrained(folder).eval()
    with torch.no_grad():
        best = model(torch.from_numpy(WAVE)[None]).logits[0].argmax(-1).tolist()
    kept = [LETTERS[b] for number, b in enumerate(best) if b and (not number or best[number - 1] != b)]
    text = " ".join("".join(kept).replace("|", " ").split())
    found = recogniser.recognise(WAVE)
    assert found.text == text and len(set(text)) > 2
    assert [word.text for word in found.words] == text.split()
    first = next(number for number, b in enumerate(best) if b and LETTERS[b] != "|")
    assert found.words[0].start == pytest.approx(first * 320 / 16000, abs=0.011)
    assert all(0 <= word.start < word.end <= len(WAVE) / 16000 + 0.03 for word in found.words)
    (part, *_) = transcribe_intervals(recogniser, WAVE, [(0.5, 1.5)])
    assert part["words"][0][1] >= 0.4 and part["text"]
    batch = torch.nn.functional.pad(torch.from_numpy(WAVE), (0, 8000)).expand(2, -1)
    assert recogniser.transcribe(batch, [len(WAVE), 48000])[0] == found
    assert {path.name for path in recogniser.files} >= {"config.json", "model.safetensors", "vocab.json"}


def test_models_that_cannot_be_loaded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for model in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"--asr transformers:.* cannot be loaded") as error:
            build_recogniser(f"transformers:{model}")
        assert "\n" not in str(error.value)
    for option in ("language", "prompt"):
        with pytest.raises(InputError, match=f"--{option}.*takes none"):
            build_recogniser(RecogniserOptions(f"transformers:{folder}", **{option: "fr"}))
    (tmp_path / "config.json").write_text('{"model_type": "bert", "vocab_size": 5}')
    with pytest.raises(InputError, match=r"--asr transformers:.* cannot be loaded"):
        build_recogniser(f"transformers:{tmp_path}")
