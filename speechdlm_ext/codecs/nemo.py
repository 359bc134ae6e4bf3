"""NeMo's audio codec as a codec, read from a ``.nemo`` file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from speechdlm_ext.codecs.base import Codec
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.nemo import read_nemo
from speechdlm_ext.modules.hifigan_codec import HiFiGANCodecConfig, HiFiGANCodecModel
from speechdlm_ext.modules.weights import check_finite

# What training keeps in the file: losses, discriminators.
_DROPPED = ("mel_loss_fn.", "stft_loss_fn.", "si_sdr_loss_fn.", "discriminator.", "speaker_encoder.")


class NemoCodec(HiFiGANCodecModel, Codec):
    """An ``AudioCodecModel`` of HiFi-GAN layers and finite scalar quantization.

    As published, and as the models that use it were trained, the last frames of a row that is shorter than its
    neighbours differ from those of the row alone (:mod:`speechdlm_ext.modules.hifigan_codec`). Its keys are NeMo's.

    Args:
        config: of the file (``model_config.yaml``).
    """

    usage = "FILE.nemo"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(HiFiGANCodecConfig.of_nemo(config))
        self.sample_rate = self.config.sample_rate
        self.frame_rate = self.sample_rate / self.config.hop
        self.num_codebooks = self.config.groups
        self.codebook_size = self.config.codebook_size
        self.encode_context = (self.encode_reach, self.encode_reach)
        self.decode_context = (self.decode_reach, self.decode_reach)
        self.eval()

    @classmethod
    def from_spec(cls, model: str, num_codebooks: int | None = None) -> NemoCodec:
        """See :meth:`Codec.from_spec`."""
        return cls.from_pretrained(model)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> NemoCodec:
        """Load a ``.nemo`` file, strictly but for losses and discriminators.

        Raises:
            InputError: there is no such file, it is damaged, or of another model.
        """
        file = read_nemo(path)
        file.expect("AudioCodecModel")
        codec = cls(file.config)
        codec.load_nemo(file.weights, str(path))
        codec.identity = ["nemo", hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]]
        return codec

    def load_nemo(self, weights: Mapping[str, Tensor], where: str) -> None:
        """Take NeMo's weights, which must be all of these but for losses and discriminators.

        Raises:
            InputError: one is missing, unknown, of another shape, or not finite; ``where`` is named.
        """
        kept = {name: value for name, value in weights.items() if not name.startswith(_DROPPED)}
        expected = self.state_dict()
        for name in sorted(expected.keys() | kept.keys()):
            shapes = [tuple(part[name].shape) if name in part else "missing" for part in (kept, expected)]
            if shapes[0] != shapes[1]:
                raise InputError(f"{where}: {name} is {shapes[0]}, {shapes[1]} is expected: another codec, or damaged")
        self.load_state_dict(kept)
        check_finite(self, where)
