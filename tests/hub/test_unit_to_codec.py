"""Units to codec tokens to sound, from Python."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from speechdlm_ext.data.unit_codec_dictionary import UnitCodecDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.hub import UnitToCodec, WavTokenizer
from speechdlm_ext.models import unit_to_codec
from speechdlm_ext.modules.wavtokenizer import WavTokenizerConfig, WavTokenizerModel


@pytest.fixture(scope="module")
def acoustic() -> UnitToCodec:
    torch.manual_seed(1)
    args = Namespace(**vars(unit_to_codec.UnitToCodecConfig()))
    args.decoder_embed_dim, args.decoder_layers, args.decoder_attention_heads, args.decoder_ffn_embed_dim = 32, 2, 2, 64
    dictionary = UnitCodecDictionary.of_sizes(12, 64)
    model = unit_to_codec.UnitToCodec.build_model(args, Namespace(source_dictionary=dictionary))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return UnitToCodec(model)


@pytest.fixture
def codec() -> WavTokenizerModel:
    torch.manual_seed(1)
    config = WavTokenizerConfig((5, 4, 3, 2), filters=4, code_dim=16, codes=64, dim=64, inner_dim=96, layers=2)
    model = WavTokenizerModel(config)
    torch.nn.init.normal_(model.codebook)
    return model


def test_units_become_sound_and_files_load_strictly(
    acoustic: UnitToCodec, codec: WavTokenizerModel, tmp_path: Path
) -> None:
    acoustic.save(tmp_path / "acoustic.pt")
    again = UnitToCodec.from_pretrained(tmp_path / "acoustic.pt")
    prompts = [["u5", "u7", "u9"], [3, 3, 4]]
    codes, finished = again.generate(prompts, max_codec_tokens_per_phone=4, seed=3)
    assert finished == [True, True] and all(len(row) <= 12 for row in codes)
    assert all(
        torch.equal(a, b)
        for a, b in zip(codes, acoustic.generate(prompts, max_codec_tokens_per_phone=4, seed=3)[0], strict=True)
    )
    torch.save({"state_dict": {**codec.state_dict(), "melspec_loss.x": torch.zeros(1)}}, tmp_path / "codec.ckpt")
    wavtokenizer = WavTokenizer.from_pretrained(tmp_path / "codec.ckpt")
    wave, rate = wavtokenizer.decode(codes[0].view(1, 1, -1))
    assert rate == 24000 and wave.shape == (1, len(codes[0]) * 120)
    assert wavtokenizer.encode(torch.randn(2, 1600), 16000).shape == (1, 2, 20)
    with pytest.raises(InputError, match="a code out of range: this codec has 0 to 63"):
        wavtokenizer.decode(torch.tensor([[64]]))
    with pytest.raises(InputError, match="acoustic.pt has no weights .*not a WavTokenizer"):
        WavTokenizer.from_pretrained(tmp_path / "acoustic.pt")
    with pytest.raises(InputError, match=r"codec.ckpt: not a checkpoint of a unit-to-codec model"):
        UnitToCodec.from_pretrained(tmp_path / "codec.ckpt")


def test_a_voice_is_read_before_the_units(acoustic: UnitToCodec) -> None:
    units, tokens = [1, 1, 1, 2, 2], [7, 8, 9, 10]
    alone, _ = acoustic.generate([[5, 7]], top_p=0.0)
    with_voice, finished = acoustic.generate([[5, 7]], top_p=0.0, voice=(units, tokens))
    # What the model reads: the voice's units and the row's, BOS, the voice as in training, the first unit of the row.
    dictionary = acoustic.dictionary
    ids = dictionary.sequence([*map(str, units), *"5555", *"777777"], [*tokens, *[0] * 8]).ids.tolist()
    start = ids.index(dictionary.token_to_id["u5"], ids.index(dictionary.bos())) + 1
    with torch.no_grad():
        logits = acoustic.model(torch.tensor([ids[:start]]))[0][0, -1]
    kept = [*dictionary.codec_ids.tolist(), dictionary.token_to_id["EOP"]]
    first = max(kept, key=lambda i: float(logits[i]))
    assert finished == [True] and dictionary.codec_tokens([first]) == with_voice[0][:1].tolist()
    assert not torch.equal(alone[0], with_voice[0])


def test_bad_input_is_one_line(acoustic: UnitToCodec, codec: WavTokenizerModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prompt 2: u12 is no unit of this model, which has 12"):
        acoustic.generate([[1], [12]])
    with pytest.raises(InputError, match="--top-p 1.5"):
        acoustic.generate([[1]], top_p=1.5)
    with pytest.raises(InputError, match=r"no acoustic model is published for K=500, λ=1;"):
        UnitToCodec.from_pretrained("ellav-k500-l1")
    with pytest.raises(InputError, match="the voice: 2 frames of units are 0.04 s, 40 codec tokens 1.00 s"):
        acoustic.generate([[1]], voice=([1, 2], [0] * 40))
    broken = dict(codec.state_dict())
    broken["feature_extractor.encodec.quantizer.vq.layers.0._codebook.inited"] = torch.zeros(1)
    torch.save({"state_dict": broken}, tmp_path / "codec.ckpt")
    with pytest.raises(InputError, match="its codebook was never trained"):
        WavTokenizer.from_pretrained(tmp_path / "codec.ckpt")
    broken["head.out.bias"] = torch.full_like(broken["head.out.bias"], torch.nan)
    broken["feature_extractor.encodec.quantizer.vq.layers.0._codebook.inited"] = torch.ones(1)
    torch.save({"state_dict": broken}, tmp_path / "codec.ckpt")
    with pytest.raises(InputError, match="head.out.bias have values that are not numbers"):
        WavTokenizer.from_pretrained(tmp_path / "codec.ckpt")
