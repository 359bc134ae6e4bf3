"""Codec tokens of recordings, by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.modules.wavtokenizer import WavTokenizerConfig, WavTokenizerModel
from speechdlm_ext.vocoders.wavtokenizer import WavTokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    config = WavTokenizerConfig((5, 4, 3, 2), filters=4, code_dim=16, codes=64, dim=64, inner_dim=96, layers=1)
    model = WavTokenizerModel(config)
    torch.nn.init.normal_(model.codebook, std=0.1)
    path = tmp_path_factory.mktemp("codec") / "codec.ckpt"
    torch.save({"state_dict": model.state_dict()}, path)
    return path


def test_rows_keep_their_fields_and_get_the_tokens(
    tmp_path: Path, checkpoint: Path, data: Path, checkout: Path, run_loaded: Any
) -> None:
    speech = sorted((data / "speech" / "ljspeech").glob("*.flac"))[0]
    stereo = sorted((data / "speech" / "calls").iterdir())[0]
    rows = [
        {"id": "a", "audio_filepath": str(speech), "unitA": "1 2", "mine": 3},
        {"id": "b", "audio_filepath": str(stereo)},
        {"id": "c", "audio_filepath": str(speech), "offset": 0.5, "duration": 0.25},
    ]
    manifest, output = tmp_path / "manifest.jsonl", tmp_path / "codec.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["python", checkout / "data_prep" / "encode_codec.py", manifest, output, "--checkpoint", checkpoint]
    done = run_loaded([*command, "--device", "cpu"])
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in found] == ["a", "c"] and found[0]["mine"] == 3 and found[0]["codec_rate"] == 200
    codec = WavTokenizer.from_pretrained(checkpoint)
    wave, rate = read_audio(str(speech), 24000)
    assert found[0]["codec"] == " ".join(map(str, codec.encode(wave, rate)[0, 0].tolist()))
    assert len(found[1]["codec"].split()) == 50 and len(set(found[0]["codec"].split())) > 1
    errors = [json.loads(line) for line in (tmp_path / "codec.jsonl.errors").read_text().splitlines()]
    assert [row["id"] for row in errors] == ["b"] and "has 2 channels, 1 is expected" in errors[0]["error"]
    assert "2 of 3 recordings" in done.stdout and not (tmp_path / "codec.jsonl.partial").exists()
    again = run_loaded(command, check=False)
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "codec.jsonl exists" in again.stderr
