"""The generator of a unit HiFi-GAN: fairseq's, with a table of styles, and how far its sound depends on its units."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from typing import Any

from fairseq.models.text_to_speech.codehifigan import CodeGenerator
from torch import Tensor, nn

from speechdlm_ext.errors import InputError

SPEAKERS, STYLES = 200, 100  # rows of the tables where the configuration does not say (as published)
# The first and the last convolution of the generator reach this far to both sides.
_OUTER_REACH = 3
_LISTS = ("upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes", "resblock_dilation_sizes")
_NUMBERS = ("upsample_initial_channel", "num_embeddings", "embedding_dim")


class UnitGenerator(CodeGenerator):
    """fairseq's ``CodeGenerator`` (Polyak et al. 2021) and a table of styles (Expresso, Nguyen et al. 2023).

    The embeddings of unit, speaker and style lie side by side, in this order.

    Args:
        config: as in the ``config.json`` of a published vocoder.

    Raises:
        InputError: the configuration lacks something, contradicts itself, or asks for inputs that units do not give.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        config = dict(config)
        check_config(config)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "`torch.nn.utils.weight_norm` is deprecated"
            )  # published names are its own
            super().__init__(config)
        self.style = None
        if config.get("multistyle"):
            self.style = nn.Embedding(config.get("num_styles", STYLES), config["embedding_dim"])
        self.hop = hop_size(config)

    def synthesize(self, units: Tensor, speakers: Tensor | None = None, styles: Tensor | None = None) -> Tensor:
        """Sound (R, N) of units (R, T), with speakers (R,) and styles (R,) where there are such; N = T · hop."""
        inputs: dict[str, Tensor] = {"code": units}
        if self.multispkr:
            assert speakers is not None
            inputs["spkr"] = speakers[:, None]
        if self.style is not None:
            assert styles is not None
            inputs["style"] = self.style(styles)[..., None]
        sound: Tensor = self(**inputs)
        # A kernel that is longer than its stride by an odd number adds a sample at the end.
        return sound[:, 0, : units.shape[1] * self.hop]

    def fold_weight_norm(self) -> None:
        """Weight norm made part of the weights, for good: half the work of a short input."""
        with contextlib.redirect_stdout(io.StringIO()):  # fairseq announces it
            self.remove_weight_norm()


def hop_size(config: Mapping[str, Any]) -> int:
    """Samples that a frame of units becomes."""
    hop = 1
    for rate in config["upsample_rates"]:
        hop *= int(rate)
    return hop


def check_config(config: Mapping[str, Any]) -> None:
    """Raise an InputError unless these are the options of a unit HiFi-GAN that has units as its only contour."""
    for name in (*_LISTS, *_NUMBERS):
        if name not in config:
            raise InputError(f"the configuration has no {name}: config.json of a unit HiFi-GAN is expected")
        value = config[name]
        if not (isinstance(value, list) and value if name in _LISTS else isinstance(value, int) and value > 0):
            raise InputError(f"the configuration's {name} is {value!r}")
    for option, reason in (
        ("f0", "a pitch contour"),
        ("embedder_params", "a speaker embedding computed from sound"),
    ):
        if config.get(option):
            raise InputError(f"this vocoder takes {reason} beside the units ({option}), which units do not carry")
    kernel = (config.get("dur_predictor_params") or {}).get("var_pred_kernel_size", 3)
    if kernel != 3:  # the second convolution of fairseq's predictor is padded for this one alone
        raise InputError(
            f"the configuration's dur_predictor_params have var_pred_kernel_size {kernel!r}: 3 is expected"
        )
    if str(config.get("resblock", "1")) != "1":
        raise InputError(f"the configuration's resblock is {config['resblock']!r}: 1 is expected")
    kinds = 1 + bool(config.get("multispkr")) + bool(config.get("multistyle"))
    width = kinds * config["embedding_dim"]
    if config.get("model_in_dim") != width:
        raise InputError(
            f"the configuration's model_in_dim is {config.get('model_in_dim')}, its {kinds} embeddings (of units"
            f"{', speakers' * bool(config.get('multispkr'))}{', styles' * bool(config.get('multistyle'))}) are {width}"
        )
    _check_shapes(config)


def _check_shapes(config: Mapping[str, Any]) -> None:
    rates, kernels = config["upsample_rates"], config["upsample_kernel_sizes"]
    if len(rates) != len(kernels) or any(not 0 < rate <= kernel for rate, kernel in zip(rates, kernels, strict=False)):
        raise InputError(f"upsample_rates {rates} and upsample_kernel_sizes {kernels} do not go together")
    blocks, dilations = config["resblock_kernel_sizes"], config["resblock_dilation_sizes"]
    if len(blocks) != len(dilations) or any(len(steps) != 3 for steps in dilations) or not all(k % 2 for k in blocks):
        raise InputError(f"resblock_kernel_sizes {blocks} and resblock_dilation_sizes {dilations} do not go together")
    if config["upsample_initial_channel"] % 2 ** len(rates):
        raise InputError(
            f"upsample_initial_channel {config['upsample_initial_channel']} cannot be halved {len(rates)} times"
        )


def context_frames(config: Mapping[str, Any]) -> tuple[int, int]:
    """Frames before and after a frame that its sound depends on: the receptive field, exactly.

    The samples of one frame are followed from the output to the input, layer by layer.
    """
    first, last = -_OUTER_REACH, hop_size(config) - 1 + _OUTER_REACH
    # Each of a block's three steps is a dilated convolution and one that is not; the widest block counts.
    blocks = zip(config["resblock_kernel_sizes"], config["resblock_dilation_sizes"], strict=True)
    reach = max(sum((kernel - 1) // 2 * (dilation + 1) for dilation in steps) for kernel, steps in blocks)
    for rate, kernel in reversed(list(zip(config["upsample_rates"], config["upsample_kernel_sizes"], strict=True))):
        first, last = first - reach, last + reach
        # Input i of a transposed convolution gives the outputs i · rate - padding + 0 … kernel - 1.
        padding = (kernel - rate) // 2
        first, last = -(-(first + padding - kernel + 1) // rate), (last + padding) // rate
    first, last = first - _OUTER_REACH, last + _OUTER_REACH
    return -first, last
