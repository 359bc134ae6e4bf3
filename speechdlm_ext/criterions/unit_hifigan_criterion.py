"""HiFi-GAN's loss (Kong et al. 2020): adversarial, of features and of mel spectra."""

from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.dataclass import FairseqDataclass
from torch import Tensor

from speechdlm_ext.criterions.summed_criterion import SummedCriterion
from speechdlm_ext.modules.discriminators import adversarial_loss, discriminator_loss, feature_loss

PARTS = ("mel_loss", "discriminator_loss", "adversarial_loss", "feature_loss")


@dataclass
class UnitHiFiGANCriterionConfig(FairseqDataclass):
    """Weights of the parts, published values as defaults, and the mel spectra that are compared."""

    mel_loss_weight: float = field(default=45.0, metadata={"help": "weight of the distance of mel spectra"})
    feature_loss_weight: float = field(default=2.0, metadata={"help": "weight of the distance of features"})
    mel_bands: int = field(default=80, metadata={"help": "mel bands that are compared"})
    mel_window: int = field(default=1024, metadata={"help": "window of the mel spectra, in samples"})
    mel_shift: int = field(default=256, metadata={"help": "shift of the mel spectra, in samples"})


@register_criterion("unit_hifigan_criterion", dataclass=UnitHiFiGANCriterionConfig)
class UnitHiFiGANCriterion(SummedCriterion):
    """The sum of both sides' losses; see :class:`speechdlm_ext.models.unit_hifigan.UnitHiFiGAN` for why one sum does.

    ``mel_loss`` is the mean absolute difference of log mel magnitudes (natural logarithm). Validation has it alone. All
    figures are means over crops.
    """

    figures = tuple((name, name, "nsentences", "as it is") for name in ("loss", *PARTS))

    def __init__(
        self,
        task: Any,
        mel_loss_weight: float,
        feature_loss_weight: float,
        mel_bands: int,
        mel_window: int,
        mel_shift: int,
    ) -> None:
        super().__init__(task)
        from torchaudio.functional import melscale_fbanks

        self.mel_loss_weight, self.feature_loss_weight = mel_loss_weight, feature_loss_weight
        self.mel_window, self.mel_shift = mel_window, mel_shift
        rate = task.cfg.sample_rate
        # As in the published code (librosa's defaults): Slaney's scale, bands of equal area.
        bands = melscale_fbanks(mel_window // 2 + 1, 0.0, rate / 2, mel_bands, rate, norm="slaney", mel_scale="slaney")
        self.register_buffer("bands", bands, persistent=False)
        self.register_buffer("window", torch.hann_window(mel_window), persistent=False)

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss of a batch times its crops, the number of crops, and the sums for the logs."""
        net = model(**sample["net_input"])
        crops = sample["nsentences"]
        parts = {"mel_loss": (self._log_mel(sample["net_input"]["wave"]) - self._log_mel(net.sound)).abs().mean()}
        loss = self.mel_loss_weight * parts["mel_loss"]
        if net.judged is not None:
            parts["discriminator_loss"] = discriminator_loss(net.real, net.fake)
            parts["adversarial_loss"] = adversarial_loss(net.judged)
            parts["feature_loss"] = feature_loss(net.real_features, net.judged_features)
            loss = loss + parts["discriminator_loss"] + parts["adversarial_loss"]
            loss = loss + self.feature_loss_weight * parts["feature_loss"]
        logs: dict[str, Any] = {name: part.detach() * crops for name, part in parts.items()}
        logs.update(loss=loss.detach() * crops, nsentences=crops, ntokens=sample["ntokens"], sample_size=crops)
        return loss * crops, crops, logs

    def _log_mel(self, wave: Tensor) -> Tensor:
        """Log mel magnitudes (B, bands, frames) of sound (B, N), in float32."""
        wave = wave.float()
        reach = (self.mel_window - self.mel_shift) // 2
        wave = torch.nn.functional.pad(wave[:, None], (reach, reach), "reflect")[:, 0]
        spectrum = torch.stft(
            wave, self.mel_window, self.mel_shift, window=self.window.float(), center=False, return_complex=True
        )
        magnitudes = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)
        return torch.log((self.bands.float().T @ magnitudes).clamp_min(1e-5))
