"""Evaluation of SALM: what cannot be answered is said by its name, before anything is computed or written."""

import json

import pytest
from omegaconf import OmegaConf

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.salm import SALMEvalOptions, evaluate_salm
from speechdlm_ext.hub import SALM
from speechdlm_ext.io.config import read_config
from tests.helpers.salm_models import write_config, write_conversations


def test_what_cannot_be_answered_is_named(tmp_path):
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    llm = {"model_type": "llama", "vocab_size": 64, "max_position_embeddings": 60, **shape}
    config = write_config(tmp_path, pretrained_llm=llm, tokenizer="llm", pretrained_weights=False)
    SALM(read_config(config, "model"), tmp_path).save_pretrained(tmp_path / "saved")
    (row,) = map(json.loads, write_conversations(tmp_path, "good", 1).read_text().splitlines())
    sound = {"type": "audio", "from": "User", "value": row["audio_filepath"]}
    words = {"type": "text", "from": "User", "value": "repeat what was said: one two three four five six seven " * 3}
    cases = {
        "conversation long: .* the language model has 60": {"id": "long", "conversations": [sound, words]},
        "conversation short: .*good0.wav: 0.002 s, not one frame": {**row, "id": "short", "duration": 0.002},
        "conversation other: .*role robot": {"id": "other", "conversations": [sound, {**words, "from": "robot"}]},
    }
    output = tmp_path / "out.jsonl"
    for message, bad in cases.items():
        path = tmp_path / "test.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in (row, bad)))
        options = OmegaConf.structured(
            SALMEvalOptions(str(tmp_path / "saved"), str(path), output_manifest=str(output), device="cpu")
        )
        with pytest.raises(InputError, match=message):
            evaluate_salm(options)
        assert not list(tmp_path.glob("out.jsonl*"))
