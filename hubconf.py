"""Entries of ``torch.hub``: ``torch.hub.load(PATH_OF_THIS_FOLDER, "codebook", layer=11, k=500, source="local")``."""

from speechdlm_ext.hub.dpslm import *  # noqa: F403

dependencies = ["torch", "torchaudio", "fairseq", "soundfile"]
