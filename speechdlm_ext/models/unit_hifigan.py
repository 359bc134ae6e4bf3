"""A unit HiFi-GAN in training: the generator, and the discriminators that it has to pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model, register_model_architecture
from torch import Tensor, nn

from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.discriminators import Discriminators
from speechdlm_ext.modules.unit_generator import UnitGenerator, hop_size


@dataclass
class UnitHiFiGANConfig(FairseqDataclass):
    """Options of generator and discriminators, with the sizes of the published vocoders as defaults."""

    upsample_rates: str = field(
        default="5,4,4,2,2",
        metadata={"help": "factors that make samples of frames; their product: samples per frame"},
    )
    upsample_kernel_sizes: str = field(default="11,8,8,4,4", metadata={"help": "lengths of the upsampling kernels"})
    upsample_initial_channel: int = field(
        default=512, metadata={"help": "channels before the first upsampling, which each one halves"}
    )
    resblock_kernel_sizes: str = field(default="3,7,11", metadata={"help": "kernel lengths of the residual blocks"})
    resblock_dilation_sizes: str = field(default="1,3,5", metadata={"help": "dilations of each block's three steps"})
    embedding_dim: int = field(default=128, metadata={"help": "dimension of the embeddings of units and of speakers"})
    periods: str = field(default="2,3,5,7,11", metadata={"help": "periods of the discriminators, in samples"})
    scales: int = field(default=3, metadata={"help": "discriminators of scales, each at half the rate of the last"})
    discriminator_channels: int = field(
        default=32, metadata={"help": "channels of the first layer of a period's discriminator"}
    )


class Judged(NamedTuple):
    """What the criterion needs: sound (B, N), and in training the discriminators' judgements.

    Gradients of ``real`` and ``fake`` reach the discriminators, those of ``judged`` and its features the generator.
    """

    sound: Tensor
    real: Optional[list[Tensor]] = None
    fake: Optional[list[Tensor]] = None
    judged: Optional[list[Tensor]] = None
    real_features: Optional[list[list[Tensor]]] = None
    judged_features: Optional[list[list[Tensor]]] = None


@register_model("unit_hifigan", dataclass=UnitHiFiGANConfig)
class UnitHiFiGAN(BaseFairseqModel):
    """Generator and discriminators, trained by one optimizer in one update.

    fairseq's trainer has one loss and one step per update. Both sides learn in it: the loss is the sum of both losses,
    and each part of the sum reaches its own side only. The discriminators get the synthesized sound without its
    history; and while they judge it for the generator's sake, their weights are constants. An update is thus one step
    of each side from the same point, where HiFi-GAN's own loop lets the generator's step see the discriminators' (the
    two differ by one step of the discriminators); gradient accumulation, several processes, half precision and
    checkpoints work as for any model.

    Args:
        config: of the generator, as in a published ``config.json``.
        discriminators: None for a generator alone.
    """

    def __init__(self, config: dict[str, Any], discriminators: Optional[Discriminators] = None) -> None:
        super().__init__()
        self.config = config
        self.generator = UnitGenerator(config)
        self.discriminators = discriminators

    @classmethod
    def build_model(cls, cfg: UnitHiFiGANConfig, task: Any) -> "UnitHiFiGAN":
        """The model for a task's units and speakers; raises :class:`InputError` for options that do not fit them."""
        config = generator_config(cfg, task.units, len(task.speakers), task.cfg.sample_rate)
        if hop_size(config) * task.frame_rate != task.cfg.sample_rate:
            raise InputError(
                f"--upsample-rates {cfg.upsample_rates} make {hop_size(config)} samples of a frame, "
                f"{task.cfg.sample_rate} Hz and {task.frame_rate:g} frames per second are "
                f"{task.cfg.sample_rate / task.frame_rate:g}"
            )
        periods = numbers(cfg.periods, "--periods")
        if not periods or cfg.scales < 0 or cfg.discriminator_channels < 1:
            raise InputError("--periods, --scales or --discriminator-channels: at least one discriminator is needed")
        return cls(config, Discriminators(periods, cfg.scales, cfg.discriminator_channels))

    def forward(self, units: Tensor, wave: Tensor, speakers: Optional[Tensor] = None) -> Judged:
        """Make sound of units (B, T); in training, have it and real sound (B, N) judged."""
        sound = self.generator.synthesize(units, speakers)
        if not self.training or self.discriminators is None:
            return Judged(sound)
        real, real_features = self.discriminators(wave)
        fake, _ = self.discriminators(sound.detach())
        with _constant(self.discriminators):
            judged, judged_features = self.discriminators(sound)
        detached = [[feature.detach() for feature in features] for features in real_features]
        return Judged(sound, real, fake, judged, detached, judged_features)


@contextmanager
def _constant(module: nn.Module) -> Iterator[None]:
    """Within this context, what is computed with the module's weights has no gradient to them."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def generator_config(cfg: UnitHiFiGANConfig, units: int, speakers: int, sample_rate: int) -> dict[str, Any]:
    """The generator's options in the published form.

    Args:
        cfg: options of the model.
        units: K.
        speakers: in the table; 0 for none.
        sample_rate: in Hz.

    Raises:
        InputError: an option is not a list of numbers.
    """
    kernels = numbers(cfg.resblock_kernel_sizes, "--resblock-kernel-sizes")
    config: dict[str, Any] = {
        "resblock": "1",
        "upsample_rates": numbers(cfg.upsample_rates, "--upsample-rates"),
        "upsample_kernel_sizes": numbers(cfg.upsample_kernel_sizes, "--upsample-kernel-sizes"),
        "upsample_initial_channel": cfg.upsample_initial_channel,
        "resblock_kernel_sizes": kernels,
        "resblock_dilation_sizes": [numbers(cfg.resblock_dilation_sizes, "--resblock-dilation-sizes") for _ in kernels],
        "num_embeddings": units,
        "embedding_dim": cfg.embedding_dim,
        "model_in_dim": cfg.embedding_dim * (2 if speakers else 1),
        "sampling_rate": sample_rate,
        "f0": False,
    }
    if speakers:
        config.update(multispkr="from_input_file", num_speakers=speakers)
    return {**config, "code_hop_size": hop_size(config)}


def numbers(value: str, option: str) -> list[int]:
    """``"5,4,2"`` as numbers; raises :class:`InputError` that names the option."""
    words = [word.strip() for word in str(value).split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise InputError(f"{option} {value}: numbers from 1 up, separated by commas, are expected")
    return [int(word) for word in words]


@register_model_architecture("unit_hifigan", "unit_hifigan_small")
def unit_hifigan_small(args: Any) -> None:
    """A quarter of the channels and one residual block a stage; a sixteenth of the work and more."""
    for name, value in (
        ("upsample_initial_channel", 128),
        ("resblock_kernel_sizes", "3,7"),
        ("embedding_dim", 64),
        ("periods", "2,3,5"),
        ("scales", 1),
        ("discriminator_channels", 8),
    ):
        setattr(args, name, getattr(args, name, value))
