"""EnCodec and Mimi: transformers' own results, from a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from speechdlm_ext.codecs.registry import build_codec
from speechdlm_ext.errors import InputError
from tests.helpers.codecs import tiny_encodec, tiny_mimi

pytest.importorskip("transformers")


@pytest.mark.commands
@torch.no_grad()
def test_codes_and_sound_are_those_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(3)
    encodec, mimi = tiny_encodec(), tiny_mimi()
    encodec.save_pretrained(tmp_path / "encodec")
    mimi.save_pretrained(tmp_path / "mimi")
    for name, model in (("encodec", encodec), ("mimi", mimi)):
        codec = build_codec(f"{name}:{tmp_path / name}")
        wave = torch.randn(2, 1, 30 * codec.hop) * 0.2
        options = {"bandwidth": None} if name == "encodec" else {}
        if name == "encodec":
            expected = model.encode(wave, bandwidth=max(model.config.target_bandwidths)).audio_codes[0]
            made = model.decode(expected[None], [None])[0]
        else:
            expected = model.encode(wave, **options).audio_codes
            made = model.decode(expected).audio_values
        assert torch.equal(codec.encode(wave), expected)
        assert torch.equal(codec.decode(expected), made[:, 0])
        first = build_codec(f"{name}:{tmp_path / name}", num_codebooks=2)
        assert torch.equal(first.encode(wave), expected[:, :2])
        with pytest.raises(InputError, match="99 codebooks"):
            build_codec(f"{name}:{tmp_path / name}", num_codebooks=99)
    with pytest.raises(InputError, match="of the type encodec, MimiModel is expected"):
        build_codec(f"mimi:{tmp_path / 'encodec'}")


def test_a_model_in_chunks_or_of_two_channels_is_refused() -> None:
    from speechdlm_ext.codecs.encodec import EncodecCodec

    for options in ({"normalize": True}, {"chunk_length_s": 1.0}, {"audio_channels": 2}):
        with pytest.raises(InputError, match="facebook/encodec_24khz"):
            EncodecCodec(tiny_encodec(**options))
