"""Codec tokens of recordings, by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.codecs.encodec import EncodecCodec
from speechdlm_ext.encoders.logmel import LogMelEncoder
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.modules.wavtokenizer import WavTokenizerConfig, WavTokenizerModel
from speechdlm_ext.units import Codebook
from speechdlm_ext.vocoders.wavtokenizer import WavTokenizer
from tests.helpers.codecs import tiny_encodec


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


@pytest.mark.commands
def test_any_codec_in_shards(tmp_path: Path, data: Path, here: Any) -> None:
    speech = sorted((data / "speech" / "ljspeech").glob("*.flac"))[0]
    torch.manual_seed(1)
    encoder = LogMelEncoder()
    Codebook(10 * torch.randn(9, 40), "logmel", encoder.options, 50.0).save(tmp_path / "book.safetensors")
    tiny_encodec().save_pretrained(tmp_path / "encodec")
    rows = [{"id": str(n), "audio_filepath": str(speech), "offset": 0.3 * n, "duration": 0.3} for n in range(3)]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wave, _ = read_audio(str(speech), 24000)
    for name, checkpoint, rate in (("units", "book.safetensors", 50), ("encodec", "encodec", 1500)):
        one, many = tmp_path / f"{name}-one.jsonl", tmp_path / f"{name}-many.jsonl"
        given = ["--codec", name, "--checkpoint", tmp_path / checkpoint, "--device", "cpu"]
        for output, shard in ((one, ()), (many, ("--shard", "1/2")), (many, ("--shard", "0/2"))):
            status, _, error = here("data_prep/encode_codec.py", manifest, output, *given, *shard)
            assert status == 0, error
        joined = tmp_path / f"{name}.jsonl"
        status, _, error = here("data_prep/merge_manifest.py", manifest, many, "--kind", "fields", "--output", joined)
        assert status == 0, error
        found = [json.loads(line) for line in one.read_text().splitlines()]
        assert [json.loads(line) for line in joined.read_text().splitlines()] == found
        assert {row["codec_rate"] for row in found} == {rate}
        if name == "encodec":  # a list of lines, one for each codebook
            expected = EncodecCodec(tiny_model(tmp_path / checkpoint)).encode(wave[:, :7200])[0]
            assert found[0]["codec"] == [" ".join(map(str, row)) for row in expected.tolist()]
        else:
            assert len(found[0]["codec"].split()) == 15
    status, _, error = here("data_prep/encode_codec.py", manifest, manifest, *given)
    assert status == 2 and "is the manifest" in error


def tiny_model(folder: Path) -> Any:
    from transformers import EncodecModel

    return EncodecModel.from_pretrained(folder)
