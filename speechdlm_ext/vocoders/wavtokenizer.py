"""WavTokenizer: sound to codes and back, from published files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import resample
from speechdlm_ext.io.published import Published, locate
from speechdlm_ext.modules.wavtokenizer import QUANTIZER, WavTokenizerConfig, WavTokenizerModel, published_weights
from speechdlm_ext.modules.weight_norm import older_name
from speechdlm_ext.modules.weights import check_finite, check_weights

_RELEASE = "https://github.com/nicolvisser/WavTokenizer/releases/download/v0.1"
WAVTOKENIZERS = {
    "small_600_24k_4096": Published(f"{_RELEASE}/WavTokenizer_small_600_24k_4096_d44c40fb.ckpt", "d44c40fb"),
    "small_320_24k_4096": Published(f"{_RELEASE}/WavTokenizer_small_320_24k_4096_721a204f.ckpt", "721a204f"),
}


def locate_wavtokenizer(path_or_name: str | os.PathLike[str]) -> Path:
    """The path of a codec given by path, or by name, which fetches it; errors as :func:`locate`."""
    return locate(path_or_name, WAVTOKENIZERS)


class WavTokenizer(nn.Module):
    """A trained codec.

    ::

        codec = WavTokenizer.from_pretrained("small_600_24k_4096")
        codes = codec.encode(wave, 16000)  # (1, B, L), 40 per second
        wave, sample_rate = codec.decode(codes)  # (B, N) at 24 kHz
    """

    def __init__(self, model: WavTokenizerModel) -> None:
        super().__init__()
        self.model = model
        self.sample_rate, self.frame_rate = model.sample_rate, model.frame_rate
        self.eval()

    @classmethod
    def from_pretrained(cls, path_or_name: str | os.PathLike[str], trust: bool | None = None) -> WavTokenizer:
        """Load a published Lightning file, or a published model by name.

        Raises:
            InputError: there is no such file, it is damaged or of another model, has weights that are not numbers, or
                its codebook was never trained.
        """
        path = locate_wavtokenizer(path_or_name)
        state = load_checkpoint(path, trust=trust)
        state = state.get("state_dict", state) if isinstance(state, Mapping) else {}
        tensors = {older_name(name): value for name, value in state.items() if isinstance(value, Tensor)}
        weights = published_weights(tensors)
        try:
            model = WavTokenizerModel(WavTokenizerConfig.of_weights(weights))
        except KeyError as error:
            raise InputError(f"{path} has no weights {error.args[0]}: not a WavTokenizer, or damaged") from None
        expected = {older_name(name): tensor for name, tensor in model.state_dict().items()}
        check_weights(expected, weights, os.fspath(path), "not a WavTokenizer, or damaged")
        if not bool(weights[f"{QUANTIZER}inited"].all()):
            raise InputError(f"{path}: its codebook was never trained ({QUANTIZER}inited is 0)")
        model.load_state_dict(weights)
        check_finite(model, os.fspath(path))
        return cls(model)

    @torch.no_grad()
    def encode(self, wave: Tensor, sample_rate: int) -> Tensor:
        """Sound ``(N,)`` or ``(B, N)`` at ``sample_rate`` Hz to codes ``(1, B, L)``, L = ⌈samples at 24 kHz / hop⌉."""
        rows = wave.unsqueeze(0) if wave.dim() == 1 else wave
        if rows.dim() != 2 or not rows.size(1):
            raise InputError(f"sound of shape {tuple(wave.shape)}: (N,) or (B, N) with one sample or more is expected")
        rows = resample(rows, sample_rate, self.sample_rate)
        return self.model.encode(rows.to(self.model.codebook)).unsqueeze(0)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> tuple[Tensor, int]:
        """Codes ``(1, B, L)`` or ``(B, L)`` to sound ``(B, L · hop)``, and its sample rate.

        The decoder was trained on 3 s. More than 30 s at 40 Hz are decoded in pieces, which gives another sound than
        the whole would; see :meth:`.WavTokenizerModel.decode`.
        """
        rows = codes[0] if codes.dim() == 3 and codes.size(0) == 1 else codes
        if rows.dim() != 2 or not rows.size(1):
            raise InputError(f"codes of shape {tuple(codes.shape)}: (1, B, L) with one code or more is expected")
        if bool(((rows < 0) | (rows >= len(self.model.codebook))).any()):
            raise InputError(f"a code out of range: this codec has 0 to {len(self.model.codebook) - 1}")
        return self.model.decode(rows.to(self.model.codebook.device)), self.sample_rate
