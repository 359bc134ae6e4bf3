"""Convolutional models of speech: recognisers (CTC), classifiers of clips, and of frames."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model, register_model_architecture
from torch import Tensor, nn

from speechdlm_ext.errors import InputError
from speechdlm_ext.models.conv_speech_configs import CONFIGURATIONS
from speechdlm_ext.modules.conv_blocks import ConvEncoder, initialize
from speechdlm_ext.modules.speech_features import Preprocessor, frame_mask

TEXT, LABEL, FRAMES = "text", "label", "frame_labels"
TARGETS = (TEXT, LABEL, FRAMES)


@dataclass
class ConvSpeechConfig(FairseqDataclass):
    """Options of the model."""

    configuration: str = field(
        default="",
        metadata={
            "help": "a published configuration of the model by name, or JSON with the sections preprocessor and "
            "encoder of a NeMo configuration (default: the first published one)"
        },
    )
    width: float = field(default=1.0, metadata={"help": "factor of the numbers of channels"})
    dropout: Optional[float] = field(
        default=None, metadata={"help": "dropout probability of all blocks (default: the configuration's)"}
    )


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

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T) to (B, T, V + 1)."""
        return F.log_softmax(self.decoder_layers(x).transpose(1, 2), dim=-1, dtype=torch.float32)


class LabelDecoder(nn.Module):
    """Logits of a clip from the mean over its valid frames; NeMo's counts the padding, too."""

    def __init__(self, dim: int, labels: int) -> None:
        super().__init__()
        self.decoder_layers = nn.Sequential(nn.Linear(dim, labels))
        self.apply(initialize)

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

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T) to (B, T, V)."""
        logits: Tensor = self.layer0(x.transpose(1, 2))
        return logits


DECODERS = {TEXT: CTCDecoder, LABEL: LabelDecoder, FRAMES: FrameDecoder}


class ConvSpeechModel(BaseFairseqModel):
    """Features, blocks of convolutions, and a layer for text, for the label of a clip, or for labels of frames.

    Weights have NeMo's names.

    Args:
        config: sections ``preprocessor`` and ``encoder`` of a NeMo configuration; ``reflect`` (true for models that
            were trained with NeMo before 2.5.0, see ``LogMelFeatures``).
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
        self.config = {name: config[name] for name in ("preprocessor", "encoder")}
        self.config["reflect"] = bool(config.get("reflect", False))
        self.target, self.symbols = target, symbols
        self.preprocessor = Preprocessor(config["preprocessor"], self.config["reflect"])
        self.encoder = ConvEncoder({"feat_in": self.preprocessor.featurizer.dim, **config["encoder"]})
        self.decoder = DECODERS[target](self.encoder.dim, symbols)

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "ConvSpeechModel":
        """The model for a task's target and symbols; raises :class:`InputError` for options that are invalid."""
        config = configuration(cfg.configuration, cls.family, cfg.width, cfg.dropout)
        model = cls(config, task.target, len(task.symbols))
        if model.sample_rate != task.sample_rate:
            raise InputError(f"the model takes sound at {model.sample_rate} Hz, --sample-rate is {task.sample_rate}")
        return model

    family = "quartznet"

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
        encoded, valid = self.encoder(features.to(self.dtype), frames)
        return SpeechScores(self.decoder(encoded, valid), valid)

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(self.encoder.parameters()).dtype

    def max_positions(self) -> None:
        """There is no longest recording."""
        return None


def configuration(given: str, family: str, width: float = 1.0, dropout: Optional[float] = None) -> dict[str, Any]:
    """The configuration that options name; see :class:`ConvSpeechConfig`.

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
    return config


def _register(family: str, paper: str) -> type[ConvSpeechModel]:
    """Register a model of this family and its published configurations as architectures ``<family>_<name>``."""
    kind = type(family.title(), (ConvSpeechModel,), {"family": family, "__doc__": paper, "__module__": __name__})
    register_model(family, dataclass=ConvSpeechConfig)(kind)
    for name in CONFIGURATIONS[family]:

        @register_model_architecture(family, f"{family}_{name}")
        def architecture(args: Any, name: str = name) -> None:
            args.configuration = getattr(args, "configuration", None) or name

    return kind


QuartzNet = _register("quartznet", "QuartzNet (Kriman et al. 2020).")
Jasper = _register("jasper", "Jasper (Li et al. 2019).")
Citrinet = _register("citrinet", "Citrinet (Majumdar et al. 2021).")
MatchboxNet = _register("matchboxnet", "MatchboxNet (Majumdar and Ginsburg 2020).")
MarbleNet = _register("marblenet", "MarbleNet (Jia et al. 2021).")
MODELS = {kind.family: kind for kind in (QuartzNet, Jasper, Citrinet, MatchboxNet, MarbleNet)}
