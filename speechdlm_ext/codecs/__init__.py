"""Audio codecs behind one interface: sound to codes and back."""

from speechdlm_ext.codecs.registry import CODECS, build_codec

__all__ = ["CODECS", "build_codec"]
