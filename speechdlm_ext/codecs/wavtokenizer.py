"""WavTokenizer as a codec."""

from __future__ import annotations

from torch import Tensor

from speechdlm_ext.codecs.base import Codec
from speechdlm_ext.vocoders.wavtokenizer import WavTokenizer, locate_wavtokenizer

# Seconds that a stream sees before and after: its layers see all there is, and were trained on 3 s.
_BEFORE, _AFTER = 2.0, 0.25


class WavTokenizerCodec(Codec):
    """One codebook; see :class:`speechdlm_ext.vocoders.wavtokenizer.WavTokenizer`.

    Args:
        wavtokenizer: with its weights.
    """

    usage = "FILE_OR_NAME"
    exact_streaming = False

    def __init__(self, wavtokenizer: WavTokenizer) -> None:
        super().__init__()
        self.wavtokenizer = wavtokenizer
        self.sample_rate, self.frame_rate = wavtokenizer.sample_rate, wavtokenizer.frame_rate
        self.num_codebooks, self.codebook_size = 1, len(wavtokenizer.model.codebook)
        self.encode_context = self.decode_context = (
            round(_BEFORE * self.frame_rate),
            round(_AFTER * self.frame_rate),
        )

    @classmethod
    def from_spec(cls, model: str, num_codebooks: int | None = None) -> WavTokenizerCodec:
        """See :meth:`Codec.from_spec`."""
        path = locate_wavtokenizer(model)
        codec = cls(WavTokenizer.from_pretrained(path))
        codec.identity = ["wavtokenizer", path.name, path.stat().st_size]
        return codec

    def encode_rows(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """See :meth:`Codec.encode_rows`."""
        return self.wavtokenizer.model.encode(waves.to(self.wavtokenizer.model.codebook), lengths).unsqueeze(1)

    def decode_rows(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """See :meth:`Codec.decode_rows`."""
        return self.wavtokenizer.model.decode(codes[:, 0], lengths)
