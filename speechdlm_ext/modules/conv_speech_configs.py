"""Published configurations of convolutional speech models, in the form that NeMo's files have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from speechdlm_ext.modules.spec_augment import PUBLISHED

_LOG_MEL = "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor"
_MFCC = "nemo.collections.asr.modules.AudioToMFCCPreprocessor"
_ENCODER = "nemo.collections.asr.modules.ConvASREncoder"


def _log_mel(features: int, window_size: float, **more: Any) -> dict[str, Any]:
    return {
        "_target_": _LOG_MEL, "sample_rate": 16000, "window_size": window_size, "window_stride": 0.01, "window": "hann",
        "features": features, "n_fft": 512, "normalize": "per_feature", "dither": 1e-5, "pad_to": 16, **more,
    }  # fmt: skip


def _mfcc() -> dict[str, Any]:
    return {
        "_target_": _MFCC, "sample_rate": 16000, "window_size": 0.025, "window_stride": 0.01, "window": "hann",
        "n_mels": 64, "n_mfcc": 64, "n_fft": 512,
    }  # fmt: skip


def _block(filters: int, kernel: int, repeat: int = 1, stride: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "filters": filters, "repeat": repeat, "kernel": [kernel], "stride": [stride],
        "dilation": [more.pop("dilation", 1)], "dropout": more.pop("dropout", 0.0),
        "residual": more.pop("residual", False), **more,
    }  # fmt: skip


def _model(
    preprocessor: dict[str, Any], features: int, blocks: list[dict[str, Any]], augmentation: str
) -> dict[str, Any]:
    encoder = {"_target_": _ENCODER, "feat_in": features, "activation": "relu", "conv_mask": True, "jasper": blocks}
    return {"preprocessor": preprocessor, "spec_augment": dict(PUBLISHED[augmentation]), "encoder": encoder}


def quartznet(copies: int) -> dict[str, Any]:
    """Kriman et al. 2020, table 1: five groups of ``copies`` blocks, each of five separable convolutions."""
    groups = ((256, 33), (256, 39), (512, 51), (512, 63), (512, 75))
    blocks = [_block(256, 33, stride=2, separable=True)]
    blocks += [
        _block(width, kernel, 5, residual=True, separable=True) for width, kernel in groups for _ in range(copies)
    ]
    blocks += [_block(512, 87, dilation=2, separable=True), _block(1024, 1)]
    return _model(_log_mel(64, 0.02), 64, blocks, "quartznet")


def jasper() -> dict[str, Any]:
    """Li et al. 2019: ten blocks of five convolutions with dense residual connections (10x5dr)."""
    groups = ((256, 11, 0.2), (384, 13, 0.2), (512, 17, 0.2), (640, 21, 0.3), (768, 25, 0.3))
    blocks = [_block(256, 11, stride=2, dropout=0.2)]
    blocks += [
        _block(width, kernel, 5, dropout=dropout, residual=True, residual_dense=True)
        for width, kernel, dropout in groups
        for _ in range(2)
    ]
    blocks += [_block(896, 29, dilation=2, dropout=0.4), _block(1024, 1, dropout=0.4)]
    return _model(_log_mel(64, 0.02), 64, blocks, "quartznet")


def citrinet(width: int) -> dict[str, Any]:
    """Majumdar et al. 2021: separable convolutions with squeeze-and-excitation, eight input frames per output frame."""
    se = {"separable": True, "se": True, "se_context_size": -1}
    blocks = [_block(width, 5, **se)]
    for kernels in (range(11, 22, 2), range(13, 26, 2), range(25, 40, 2)):
        for place, kernel in enumerate(kernels):
            strided: dict[str, Any] = {} if place else {"stride": 2, "stride_last": True, "residual_mode": "stride_add"}
            blocks.append(_block(width, kernel, 5, dropout=0.1, residual=True, **se, **strided))
    blocks.append(_block(640, 41, **se))
    return _model(_log_mel(80, 0.025), 80, blocks, "marblenet_20ms")  # the same masks


def matchboxnet(repeat: int) -> dict[str, Any]:
    """Majumdar and Ginsburg 2020: three blocks (3 x ``repeat`` x 64) on MFCC."""
    return _model(_mfcc(), 64, _small_blocks(repeat, stride=1), "matchboxnet")


def marblenet_frames() -> dict[str, Any]:
    """Jia et al. 2021: MatchboxNet 3x2x64 as a detector of speech; on log-mel bands, one decision every 20 ms."""
    features = _log_mel(80, 0.025, normalize="None", pad_to=2)
    return _model(features, 80, _small_blocks(2, stride=2), "marblenet_20ms")


def _small_blocks(repeat: int, stride: int) -> list[dict[str, Any]]:
    blocks = [_block(128, 11, stride=stride, separable=True)]
    blocks += [_block(64, kernel, repeat, residual=True, separable=True) for kernel in (13, 15, 17)]
    return [*blocks, _block(128, 29, dilation=2, separable=True), _block(128, 1)]


# By the name of the model, then of the configuration; the first one is the default.
CONFIGURATIONS: dict[str, dict[str, Callable[[], dict[str, Any]]]] = {
    "quartznet": {
        "15x5": lambda: quartznet(3),
        "10x5": lambda: quartznet(2),
        "5x5": lambda: quartznet(1),
    },
    "jasper": {"10x5dr": jasper},
    "citrinet": {
        "512": lambda: citrinet(512),
        "256": lambda: citrinet(256),
        "384": lambda: citrinet(384),
        "768": lambda: citrinet(768),
        "1024": lambda: citrinet(1024),
    },
    "matchboxnet": {"3x1x64": lambda: matchboxnet(1), "3x2x64": lambda: matchboxnet(2)},
    "marblenet": {"3x2x64": lambda: matchboxnet(2), "3x2x64_20ms": marblenet_frames},
}
