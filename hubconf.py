"""Entries of ``torch.hub``: ``torch.hub.load(PATH_OF_THIS_FOLDER, "codebook", layer=11, k=500, source="local")``."""

from speechdlm_ext.hub.dpslm import (
    codebook,
    dpdp_quantizer_from_codebook,
    ellav_units_to_wavtokenizer,
    small_320_24k_4096,
    small_600_24k_4096,
    wavlm_large,
)

dependencies = ["torch", "torchaudio", "fairseq", "soundfile"]
__all__ = [
    "codebook",
    "dpdp_quantizer_from_codebook",
    "ellav_units_to_wavtokenizer",
    "small_320_24k_4096",
    "small_600_24k_4096",
    "wavlm_large",
]
