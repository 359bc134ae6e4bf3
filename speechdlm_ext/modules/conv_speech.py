"""Networks of convolutions for speech: recognisers (CTC), classifiers of clips, and of frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.conv_blocks import ConvEncoder, initialize
from speechdlm_ext.modules.conv_speech_configs import CONFIGURATIONS
from speechdlm_ext.modules.padding import frame_mask
from speechdlm_ext.modules.spec_augment import spec_augmentation
from speechdlm_ext.modules.speech_features import Preprocessor
from speechdlm_ext.neural_types import (
    AcousticEncodedRepresentation,
    LengthsType,
    LogitsType,
    LogprobsType,
    NeuralType,
    typecheck,
)

TEXT, LABEL, FRAMES = "text", "label", "frame_labels"
TARGETS = (TEXT, LABEL, FRAMES)


# What the decoders take.
_ENCODED = {
    "x": NeuralType(("B", "D", "T"), AcousticEncodedRepresentation()),
    "lengths": NeuralType(("B",), LengthsType()),
}


class SpeechScores(NamedTuple):
    """What a model gives.

    Attributes:
        scores: CTC: log-probabilities (B, T, V + 1), the blank last; classifiers: logits (B, V); of frames (B, T, V).
        lengths: valid frames of each row (B,).
    """

    scores: Tensor
    lengths: Tensor


class CTCDecoder(nn.Module):
    """Log-probabilities of the symbols and, last, of the blank."""

    def __init__(self, dim: int, symbols: int) -> None:
        super().__init__()
        self.decoder_layers = nn.Sequential(nn.Conv1d(dim, symbols + 1, 1))
        self.apply(initialize)

    @typecheck(_ENCODED, {"log_probs": NeuralType(("B", "T", "D"), LogprobsType())}, positional=True)
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T) to (B, T, V + 1)."""
        return F.log_softmax(self.decoder_layers(x).transpose(1, 2), dim=-1, dtype=torch.float32)


class LabelDecoder(nn.Module):
    """Logits of a clip from the mean over its valid frames; NeMo's counts the padding, too."""

    def __init__(self, dim: int, labels: int) -> None:
        super().__init__()
        self.decoder_layers = nn.Sequential(nn.Linear(dim, labels))
        self.apply(initialize)

    @typecheck(_ENCODED, {"logits": NeuralType(("B", "D"), LogitsType())}, positional=True)
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T) to (B, V)."""
        x = x.masked_fill(~frame_mask(lengths, x.shape[2])[:, None], 0.0)
        logits: Tensor = self.decoder_layers(x.sum(2) / lengths.clamp(min=1)[:, None].to(x.dtype))
        return logits


class FrameDecoder(nn.Module):
    """Logits of each frame."""

    def __init__(self, dim: int, labels: int) -> None:
        super().__init__()
        self.layer0 = nn.Linear(dim, labels)

    @typecheck(_ENCODED, {"logits": NeuralType(("B", "T", "D"), LogitsType())}, positional=True)
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T) to (B, T, V)."""
        logits: Tensor = self.layer0(x.transpose(1, 2))
        return logits


DECODERS = {TEXT: CTCDecoder, LABEL: LabelDecoder, FRAMES: FrameDecoder}


class ConvSpeech(nn.Module):
    """Features, blocks of convolutions, and a layer for text, for the label of a clip, or for labels of frames.

    Weights have NeMo's names.

    Args:
        config: sections ``preprocessor``, ``encoder`` and, if any, ``spec_augment`` of a NeMo configuration;
            ``reflect`` (true for models that were trained with NeMo before 2.5.0, see ``LogMelFeatures``).
        target: what it predicts, one of :data:`TARGETS`.
        symbols: how many, the blank not counted.

    Raises:
        InputError: the configuration is not that of such a model.
    """

    def __init__(self, config: Mapping[str, Any], target: str, symbols: int) -> None:
        super().__init__()
        for name in ("preprocessor", "encoder"):
            if not isinstance(config.get(name), Mapping):
                raise InputError(f"configuration of the model: no section {name}")
        names = ("preprocessor", "encoder", "spec_augment")
        self.config: dict[str, Any] = {name: config[name] for name in names if config.get(name)}
        self.config["reflect"] = bool(config.get("reflect", False))
        self.target, self.symbols = target, symbols
        self.preprocessor = Preprocessor(config["preprocessor"], self.config["reflect"])
        self.spec_augment = spec_augmentation(self.config.get("spec_augment"))
        self.encoder = ConvEncoder({"feat_in": self.preprocessor.featurizer.dim, **config["encoder"]})
        self.decoder = DECODERS[target](self.encoder.dim, symbols)

    @property
    def sample_rate(self) -> int:
        """Of the sound it takes, in Hz."""
        return self.preprocessor.featurizer.sample_rate

    @property
    def frame_rate(self) -> float:
        """Of its output, in frames per second."""
        return self.preprocessor.featurizer.frame_rate / self.encoder.stride

    def forward(self, wave: Tensor, lengths: Tensor) -> SpeechScores:
        """Scores of sound (B, N), full scale ±1, with valid samples (B,); see :class:`SpeechScores`."""
        features, frames = self.preprocessor(wave, lengths)
        encoded, valid = self.encoder(self.spec_augment(features, frames).to(self.dtype), frames)
        return SpeechScores(self.decoder(encoded, valid), valid)

    def output_frames(self, samples: Tensor) -> Tensor:
        """Valid frames of the output for recordings of so many samples (B,)."""
        return self.encoder.output_lengths(self.preprocessor.featurizer.frames(samples))

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(self.encoder.parameters()).dtype


def configuration(
    given: str, family: str, width: float = 1.0, dropout: float | None = None, spec_augment: bool = True
) -> dict[str, Any]:
    """The configuration that options name; see ``ConvSpeechConfig``.

    Raises:
        InputError: there is no such configuration, it is not JSON, or a factor or probability is out of range.
    """
    published = CONFIGURATIONS[family]
    if given.lstrip().startswith("{"):
        try:
            config: dict[str, Any] = json.loads(given)
        except ValueError as error:
            raise InputError(f"--configuration: not JSON ({error})") from None
    else:
        name = given or next(iter(published))
        if name not in published:
            raise InputError(f"--configuration {given}: {family} has {', '.join(published)}, or JSON")
        config = published[name]()
    if not width > 0 or not (dropout is None or 0 <= dropout < 1):
        raise InputError(f"--width {width}, --dropout {dropout}: above 0, and from 0 up to 1, are expected")
    for block in config.get("encoder", {}).get("jasper", ()):
        if width != 1 and "filters" in block:
            block["filters"] = max(8, round(block["filters"] * width / 8) * 8)
        if dropout is not None:
            block["dropout"] = dropout
    if not spec_augment:
        config.pop("spec_augment", None)
    return config
