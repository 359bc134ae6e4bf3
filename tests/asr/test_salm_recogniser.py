"""SALM as a recogniser of transcribe.py: the model's own answers, for every recording of a manifest."""

import json

import pytest
import torch

from speechdlm_ext.asr import RecogniserOptions, build_recogniser
from speechdlm_ext.asr.manifest_text import TextOptions, transcribe_manifest
from speechdlm_ext.errors import InputError
from speechdlm_ext.hub import SALM
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.io.config import read_config
from speechdlm_ext.io.manifest import read_jsonl
from tests.helpers.salm_models import PERCEPTION, TAG, write_config, write_conversations


def test_recordings_get_the_models_answers(tmp_path):
    path = write_config(tmp_path, lora={"r": 2})
    torch.manual_seed(2)
    SALM(read_config(path, "model"), tmp_path).save_pretrained(tmp_path / "saved")
    manifest = write_conversations(tmp_path, "valid", 3)
    rows = [{"audio_filepath": str(tmp_path / row["audio_filepath"])} for row in read_jsonl(manifest)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recogniser = RecogniserOptions(f"salm:{tmp_path / 'saved'}", 30.0, "", "repeat:", "cpu")
    transcribe_manifest(manifest, tmp_path / "out.jsonl", TextOptions(recogniser, "none", 0, 0), None, False)
    model = SALM.from_pretrained(tmp_path / "saved")
    for row in read_jsonl(tmp_path / "out.jsonl"):
        wave, _ = read_audio(row["audio_filepath"], 16000)
        (ids,) = model.generate([[{"role": "user", "content": f"repeat: {TAG}"}]], wave, torch.tensor([wave.size(1)]))
        assert row["text"] == " ".join(model.tokenizer.ids_to_text(ids).split()) != ""


def test_a_model_of_another_sample_rate_is_one_line(tmp_path):
    preprocessor = {**PERCEPTION["preprocessor"], "sample_rate": 8000}
    path = write_config(tmp_path, perception={**PERCEPTION, "preprocessor": preprocessor})
    SALM(read_config(path, "model"), tmp_path).save_pretrained(tmp_path / "saved")
    with pytest.raises(InputError, match="of 8000 Hz, 16000 Hz are expected"):
        build_recogniser(f"salm:{tmp_path / 'saved'}")
