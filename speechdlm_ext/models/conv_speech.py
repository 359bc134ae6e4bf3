"""Convolutional models of speech as fairseq's models: QuartzNet, Jasper, Citrinet, MatchboxNet, MarbleNet."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model, register_model_architecture

from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.conv_speech import ConvSpeech, configuration
from speechdlm_ext.modules.conv_speech_configs import CONFIGURATIONS


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
    no_spec_augment: bool = field(default=False, metadata={"help": "do not mask spectrograms in training"})


class ConvSpeechModel(ConvSpeech, BaseFairseqModel):
    """A network of convolutions; the task says what it predicts.

    Attributes:
        family: the name by which fairseq knows it.
    """

    family: ClassVar[str]

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "ConvSpeechModel":
        """The model for a task's target and symbols; raises :class:`InputError` for options that are invalid."""
        config = configuration(cfg.configuration, cls.family, cfg.width, cfg.dropout, not cfg.no_spec_augment)
        model = cls(config, task.target, len(task.symbols))
        if model.sample_rate != task.sample_rate:
            raise InputError(f"the model takes sound at {model.sample_rate} Hz, --sample-rate is {task.sample_rate}")
        return model

    def max_positions(self) -> None:
        """There is no longest recording."""
        return None


def _register(title: str, paper: str) -> type[ConvSpeechModel]:
    """Register a model of this family and its published configurations as architectures ``<family>_<name>``."""
    family, about = title.lower(), f"{title} ({paper})."
    kind = type(title, (ConvSpeechModel,), {"family": family, "__doc__": about, "__module__": __name__})
    register_model(family, dataclass=ConvSpeechConfig)(kind)
    for name in CONFIGURATIONS[family]:

        @register_model_architecture(family, f"{family}_{name}")
        def architecture(args: Any, name: str = name) -> None:
            args.configuration = getattr(args, "configuration", None) or name

    return kind


QuartzNet = _register("QuartzNet", "Kriman et al. 2020")
Jasper = _register("Jasper", "Li et al. 2019")
Citrinet = _register("Citrinet", "Majumdar et al. 2021")
MatchboxNet = _register("MatchboxNet", "Majumdar and Ginsburg 2020")
MarbleNet = _register("MarbleNet", "Jia et al. 2021")
