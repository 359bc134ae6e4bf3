"""All codecs behind one interface: shapes, rows of a batch, streams, bad input."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from speechdlm_ext.codecs.base import Codec
from speechdlm_ext.codecs.nemo import NemoCodec
from speechdlm_ext.codecs.registry import CODECS, build_codec
from speechdlm_ext.codecs.units import UnitsCodec
from speechdlm_ext.codecs.wavtokenizer import WavTokenizerCodec
from speechdlm_ext.encoders.logmel import LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.wavtokenizer import WavTokenizerConfig, WavTokenizerModel
from speechdlm_ext.units.codebook import Codebook
from speechdlm_ext.vocoders.codebook_inversion import CodebookVocoder
from speechdlm_ext.vocoders.wavtokenizer import WavTokenizer
from tests.helpers.codecs import nemo_config, tiny_encodec, tiny_mimi

NAMES = ["encodec", "encodec, not causal", "mimi", "nemo", "units", "wavtokenizer"]


def build(name: str) -> Codec:
    """A small one with random weights."""
    torch.manual_seed(1)
    if name.startswith("encodec"):
        from speechdlm_ext.codecs.encodec import EncodecCodec

        return EncodecCodec(tiny_encodec(causal=name == "encodec"), 3)
    if name == "mimi":
        from speechdlm_ext.codecs.mimi import MimiCodec

        return MimiCodec(tiny_mimi(), 3)
    if name == "nemo":
        nemo = NemoCodec(nemo_config())
        nemo.audio_encoder.post_conv.conv.parametrizations.weight.original0.data *= 30
        return nemo
    if name == "units":
        encoder = LogMelEncoder(level=-26.0)
        features = encoder.encode(sound(1, 20 * 320)[0], 16000)
        book = Codebook(features, "logmel", encoder.options, 50.0)
        return UnitsCodec(book, CodebookVocoder(book))
    model = WavTokenizerModel(WavTokenizerConfig((3, 2, 2), 4, 16, 32, 64, 64, 1))
    model.codebook.copy_(model.embed(sound(1, 32 * 12), torch.tensor([32 * 12]))[0].T.detach())
    return WavTokenizerCodec(WavTokenizer(model))


@pytest.fixture(scope="module", params=NAMES)
def codec(request: pytest.FixtureRequest) -> Codec:
    return build(request.param)


def sound(rows: int, samples: int) -> Tensor:
    return torch.randn(rows, samples, generator=torch.Generator().manual_seed(2)) * 0.2


def test_shapes_and_rates(codec: Codec) -> None:
    wave = sound(2, 20 * codec.hop + 3)
    codes = codec.encode(wave)
    assert codes.shape == (2, codec.num_codebooks, 21) and codes.dtype == torch.long
    assert codes.min() >= 0 and codes.max() < codec.codebook_size and len(codes.unique()) > 3
    assert torch.equal(codec.encode(wave.unsqueeze(1)), codes)
    assert codec.hop * codec.frame_rate == pytest.approx(codec.sample_rate)
    made = codec.decode(codes)
    assert made.shape == (2, 21 * codec.hop) and torch.isfinite(made).all() and made.std() > 0


def test_rows_of_a_batch_are_what_they_are_alone(codec: Codec) -> None:
    wave, lengths = sound(2, 40 * codec.hop), torch.tensor([40 * codec.hop, 17 * codec.hop + 2])
    codes = codec.encode(wave, lengths)
    alone = codec.encode(wave[1:, : lengths[1]])
    assert not codes[1, :, 18:].any()
    if isinstance(codec, NemoCodec):  # as published, the end of a shorter row differs
        assert torch.equal(codes[1, :, : 18 - codec.encode_reach], alone[0, :, : -codec.encode_reach])
    else:
        assert torch.equal(codes[1, :, :18], alone[0])
    made = codec.decode(codes, torch.tensor([40, 18]))
    expected = codec.decode(codes[1:, :, :18])[0]
    until = (18 - codec.decode_reach if isinstance(codec, NemoCodec) else 18) * codec.hop
    assert (made[1, :until] - expected[:until]).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))
    assert not made[1, 18 * codec.hop :].any()


@pytest.mark.commands
@pytest.mark.parametrize("frames", [1, 3])
def test_a_stream_gives_what_the_whole_gives(codec: Codec, frames: int) -> None:
    wave = sound(2, 60 * codec.hop + 1)
    codes = codec.encode(wave)
    stream = codec.streaming()
    parts = [stream.decode(part) for part in codes.split(frames, -1)]
    delay = max(codec.decode_context[1], 0)
    assert sum(part.size(1) for part in parts) >= (codes.size(-1) - delay) * codec.hop
    made = torch.cat([*parts, stream.decode(None, last=True)][: len(parts) + (delay > 0)], 1)
    assert made.shape == (2, 61 * codec.hop)
    # Pieces that are not of whole frames.
    parts = [stream.encode(part) for part in wave.split(frames * codec.hop + 1, 1)]
    found = torch.cat([part for part in (*parts, stream.encode(None, last=True)) if part.numel()], -1)
    assert found.shape == codes.shape
    if codec.exact_streaming:
        whole = codec.decode(codes)
        assert (made - whole).abs().max() < 1e-5 * max(1.0, float(whole.abs().max()))
        assert torch.equal(found, codes)
    elif not isinstance(codec, UnitsCodec):  # whose noise depends on where a part begins
        assert (found == codes).float().mean() > 0.9


def test_a_stream_of_log_mel_units_has_no_seams() -> None:
    """A held vowel: its pulses go on where pieces join, so that samples change no more there than anywhere."""
    codec = build("units")
    assert isinstance(codec, UnitsCodec)
    envelope = torch.cat((torch.full((20,), 5.0), torch.full((20,), -25.0)))
    book = Codebook(envelope[None], "logmel", codec.encoder.options, 50.0)
    vowel = UnitsCodec(book, CodebookVocoder(book))
    stream, codes = vowel.streaming(), torch.zeros(1, 1, 100, dtype=torch.long)
    made = torch.cat([*(stream.decode(part) for part in codes.split(4, -1)), stream.decode(None, last=True)], 1)[0]
    assert made.shape == (32000,)
    steps = made[3200:-3200].diff().abs()
    whole = vowel.decode(codes)[0, 3200:-3200].diff().abs()
    assert steps.max() < 1.5 * whole.max()
    levels = made[3200:28800].view(-1, 640).square().mean(1)
    assert levels.min() > 0.3 * levels.median()


def test_bad_input_is_named(codec: Codec) -> None:
    for wave in (torch.zeros(3), torch.zeros(2, 2, 9), torch.zeros(0, 5), torch.zeros(1, 9, dtype=torch.long)):
        with pytest.raises(InputError, match=r"\(B, N\)"):
            codec.encode(wave)
    with pytest.raises(InputError, match="finite"):
        codec.encode(torch.full((1, 99), math.nan))
    with pytest.raises(InputError, match="row 1 has 0 samples"):
        codec.encode(torch.zeros(2, 99), torch.tensor([99, 0]))
    codes = torch.zeros(1, codec.num_codebooks, 4, dtype=torch.long)
    with pytest.raises(InputError, match=f"code {codec.codebook_size} is out of range"):
        codec.decode(codes + codec.codebook_size)
    with pytest.raises(InputError, match=f"{codec.num_codebooks}, L"):
        codec.decode(torch.zeros(1, codec.num_codebooks + 1, 4, dtype=torch.long))
    with pytest.raises(InputError, match="row 0 has 5 frames"):
        codec.decode(codes, torch.tensor([5]))


def test_the_registry_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is encodec, mimi, nemo, units, wavtokenizer"):
        build_codec("opus:x")
    with pytest.raises(InputError, match="units:CODEBOOK"):
        build_codec("units")
    for name in sorted(CODECS):
        with pytest.raises(InputError, match="nothing"):
            build_codec(f"{name}:{tmp_path / 'nothing'}")
