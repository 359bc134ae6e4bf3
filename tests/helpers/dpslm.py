"""DP-SLM's chain at a small size, in the published formats, under the published names in a cache folder."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechdlm_ext.checkpoints.ellav import UNIT_TO_CODEC
from speechdlm_ext.data.unit_codec_dictionary import UnitCodecDictionary
from speechdlm_ext.encoders.wavlm import WavLMEncoder
from speechdlm_ext.hub import UnitToCodec
from speechdlm_ext.io.published import CODEBOOKS, WAVLM, Published
from speechdlm_ext.models import unit_to_codec
from speechdlm_ext.modules.wavtokenizer import WavTokenizerConfig, WavTokenizerModel
from speechdlm_ext.vocoders.wavtokenizer import WAVTOKENIZERS
from tests.helpers.speech_checkpoints import WAVLM_CFG, wavlm_weights

CODES = 64


def acoustic_model(units: int, seed: int = 1, codes: int = CODES, std: float = 0.5) -> UnitToCodec:
    """A transformer of 2 layers of dimension 32 with random weights."""
    torch.manual_seed(seed)
    args = Namespace(**vars(unit_to_codec.UnitToCodecConfig()))
    args.decoder_embed_dim, args.decoder_layers, args.decoder_attention_heads, args.decoder_ffn_embed_dim = 32, 2, 2, 64
    dictionary = UnitCodecDictionary.of_sizes(units, codes)
    model = unit_to_codec.UnitToCodec.build_model(args, Namespace(source_dictionary=dictionary))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return UnitToCodec(model)


def write_codec(path: Path, ratios: tuple[int, ...] = (6, 5, 5, 4)) -> Path:
    """A WavTokenizer with random weights, as a Lightning file."""
    torch.manual_seed(1)
    config = WavTokenizerConfig(ratios, filters=4, code_dim=16, codes=CODES, dim=64, inner_dim=96, layers=2)
    model = WavTokenizerModel(config)
    torch.nn.init.normal_(model.codebook)
    torch.save({"state_dict": {**model.state_dict(), "melspec_loss.x": torch.zeros(1)}}, path)
    return path


def write_chain(cache: Path, data: Path, wave: Tensor, k: int = 500, lmbda: int = 4500) -> dict[str, Path]:
    """The files of all parts; the codebook is of frames of ``wave`` ``(N,)`` at 16 kHz, and noise."""

    def place(name: str, table: dict[str, Published]) -> Path:
        path = cache / name / table[name].url.rpartition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    wavlm = place("wavlm-large", WAVLM)
    weights = wavlm_weights(data / "keys" / "wavlm_large_model.txt", 1, 11)
    for name in ("post_extract_proj.weight", "post_extract_proj.bias"):  # so that changes of unit are worth λ
        weights[name] *= 100
    cfg: dict[str, Any] = {**WAVLM_CFG, "encoder_layers": 11}
    torch.save({"cfg": cfg, "model": weights}, wavlm)
    codebook = place(f"wavlm-large-l11-k{k}", CODEBOOKS)
    frames = WavLMEncoder(wavlm, 11).encode(wave, 16000)
    chosen = frames[torch.linspace(0, len(frames) - 1, k).long()]
    torch.save({"codebook": chosen + torch.randn(chosen.shape)}, codebook)
    acoustic = place(f"ellav-k{k}-l{lmbda}", UNIT_TO_CODEC)
    acoustic_model(k).save(acoustic)
    return {
        "wavlm": wavlm,
        "codebook": codebook,
        "acoustic": acoustic,
        "codec": write_codec(place("small_600_24k_4096", WAVTOKENIZERS)),
    }
