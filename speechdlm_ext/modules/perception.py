"""Perception: sound to embeddings of a language model; features, encoder, adapter, projection; whole or in a stream."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.nemo import read_nemo
from speechdlm_ext.modules.backbone import find_folder
from speechdlm_ext.modules.conformer import ConformerEncoder, ConformerState, conformer_config
from speechdlm_ext.modules.conv_blocks import ConvEncoder
from speechdlm_ext.modules.conv_speech_files import load_network
from speechdlm_ext.modules.padding import frame_mask
from speechdlm_ext.modules.spec_augment import spec_augmentation
from speechdlm_ext.modules.speech_features import LogMelFeatures, Preprocessor
from speechdlm_ext.modules.weights import check_weights
from speechdlm_ext.neural_types import (
    AcousticEncodedRepresentation,
    AudioSignal,
    AxisKind,
    AxisType,
    Length,
    LengthsType,
    NeuralType,
    typecheck,
)

CONFORMER, CONVOLUTIONS, IDENTITY = "ConformerEncoder", "ConvASREncoder", "IdentityConnector"


class Perception(nn.Module):
    """Sound to embeddings; weights have NeMo's names.

    Args:
        config: the section ``perception`` of a published configuration: ``preprocessor``, ``spec_augment``,
            ``encoder``, ``modality_adapter``, ``output_dim``. Here also ``stack``: how many frames of the encoder, side
            by side, make one of the adapter's (default 1); ``output_rms``: to which root mean square each embedding is
            scaled (default: as it is); ``reflect``: see :class:`.LogMelFeatures`.
        encoder: a frozen encoder of :mod:`speechdlm_ext.encoders` (HuBERT, WavLM, any of transformers) instead of
            ``preprocessor`` and ``encoder``; its weights are not among this module's.

    Attributes:
        sample_rate: of the sound, in Hz.
        frame_rate: embeddings per second.

    Raises:
        InputError: a section is missing, or cannot be built.
    """

    def __init__(self, config: Mapping[str, Any], encoder: Any = None) -> None:
        super().__init__()
        if encoder is None:
            for name in ("preprocessor", "encoder"):
                if not isinstance(config.get(name), Mapping):
                    raise InputError(f"perception: no section {name} in the configuration")
            self.preprocessor = Preprocessor(config["preprocessor"], bool(config.get("reflect", False)))
            self.spec_augment = spec_augmentation(config.get("spec_augment"))
            features = self.preprocessor.featurizer
            self.encoder: Any = build_encoder({"feat_in": features.dim, **config["encoder"]}, "perception.encoder")
            self.sample_rate, self.frame_rate = features.sample_rate, features.frame_rate / self.encoder.stride
            if features.dim != self.encoder.feat_in:
                raise InputError(
                    f"perception: features of {features.dim} bands, feat_in {self.encoder.feat_in} in the encoder"
                )
        else:
            self.encoder = FrozenEncoder(encoder)
            self.sample_rate, self.frame_rate = encoder.sample_rate, encoder.frame_rate
        self.stack = int(config.get("stack") or 1)
        if self.stack < 1:
            raise InputError(f"perception: stack {self.stack}; expected 1 or more")
        self.frame_rate, width = self.frame_rate / self.stack, self.encoder.dim * self.stack
        section = dict(config.get("modality_adapter") or {"_target_": IDENTITY, "d_model": width})
        output_dim = section.pop("output_dim", None)  # the adapter's own; then there is no projection
        self.modality_adapter: nn.Module = nn.Identity()
        if _kind(section) != IDENTITY:
            self.modality_adapter = adapter = build_encoder(section, "perception.modality_adapter")
            if adapter.feat_in != width:
                raise InputError(f"perception: an encoder of width {width}, feat_in {adapter.feat_in} in the adapter")
            width = adapter.dim
            self.frame_rate /= adapter.stride
        self.output_dim = int(config.get("output_dim") or output_dim or width)
        self.output_rms = float(config.get("output_rms") or 0.0)
        self.proj = nn.Identity() if output_dim else nn.Linear(width, self.output_dim)

    @property
    def token_equivalent_duration(self) -> float:
        """Seconds of sound for one embedding."""
        return 1 / self.frame_rate

    @typecheck(
        {
            "input_signal": NeuralType(("B", "T"), AudioSignal()),
            "input_signal_length": NeuralType(("B",), LengthsType()),
            "samples": NeuralType((AxisType(AxisKind.Batch, is_list=True),), Length(), optional=True),
        },
        {
            "embeddings": NeuralType(("B", "T", "D"), AcousticEncodedRepresentation()),
            "lengths": NeuralType(("B",), LengthsType()),
        },
        positional=True,
    )
    def forward(
        self, input_signal: Tensor, input_signal_length: Tensor, samples: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (B, T, H) and their valid frames (B,), of sound (B, N), of which (B,) samples count.

        A row's embeddings are those it would have alone. A frozen encoder fetches the lengths from the device unless
        they are given as numbers, too (``samples``).
        """
        if isinstance(self.encoder, FrozenEncoder):
            x, lengths = self.encoder(input_signal, input_signal_length.tolist() if samples is None else samples)
            x = x.to(self._dtype)
        else:
            features, lengths = self.preprocessor(input_signal, input_signal_length)
            x, lengths = _encode(self.encoder, self.spec_augment(features, lengths).to(self._dtype), lengths)
        if self.stack > 1:
            x = x.masked_fill(~frame_mask(lengths, x.size(1)).unsqueeze(2), 0.0)
            x = F.pad(x, (0, 0, 0, -x.size(1) % self.stack)).unflatten(1, (-1, self.stack)).flatten(2)
            lengths = _stacked(lengths, self.stack)
        if not isinstance(self.modality_adapter, nn.Identity):
            x, lengths = _encode(self.modality_adapter, x.transpose(1, 2), lengths)
        return self.project(x), lengths

    def project(self, x: Tensor) -> Tensor:
        """Embeddings (B, T, H) of the adapter's frames."""
        x = self.proj(x)
        return F.rms_norm(x, x.shape[-1:]) * self.output_rms if self.output_rms else x

    def output_frames(self, samples: Tensor) -> Tensor:
        """Valid frames of embeddings of recordings of so many samples (B,), on the CPU, without computing them."""
        if isinstance(self.encoder, FrozenEncoder):
            lengths = torch.tensor([self.encoder.wrapped[0].frames(count) for count in samples.tolist()])
        else:
            lengths = self.encoder.output_lengths(self.preprocessor.featurizer.frames(samples))
        lengths = _stacked(lengths, self.stack)
        adapter = self.modality_adapter
        return lengths if isinstance(adapter, nn.Identity) else adapter.output_lengths(lengths)  # type: ignore[operator]

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def stream(self) -> PerceptionStream:
        """A stream of sound, whose embeddings come as soon as no later sound can change them.

        Raises:
            InputError: the encoder, the adapter or the features need the whole recording.
        """
        if not isinstance(self.encoder, ConformerEncoder) or self.stack > 1:
            raise InputError("perception: a stream needs a causal Conformer encoder, and no stack")
        features = self.preprocessor.featurizer
        if not isinstance(features, LogMelFeatures):
            raise InputError("perception: a stream needs log-mel features")
        adapter = self.modality_adapter.state() if isinstance(self.modality_adapter, ConformerEncoder) else None
        return PerceptionStream(self, LogMelStream(features), self.encoder.state(), adapter)


def _encode(encoder: Any, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """States (B, T', D) and valid frames (B,) of features (B, F, T)."""
    if isinstance(encoder, ConvEncoder):
        x, lengths = encoder(features, lengths)
        return x.transpose(1, 2), lengths
    found: tuple[Tensor, Tensor] = encoder(features.transpose(1, 2), lengths)
    return found


def _stacked(lengths: Tensor, stack: int) -> Tensor:
    return torch.div(lengths + stack - 1, stack, rounding_mode="floor")


class FrozenEncoder(nn.Module):
    """An encoder of another package as a module without weights of its own.

    Args:
        encoder: has ``sample_rate``, ``dim``, ``device``, ``frames``, ``to`` and ``encode_batch``.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.wrapped, self.dim = [encoder], encoder.dim  # a list hides it from torch

    @torch.no_grad()
    def forward(self, wave: Tensor, samples: Sequence[int]) -> tuple[Tensor, Tensor]:
        """States (B, T, dim) and valid frames (B,) of sound (B, N), of each row so many samples."""
        (encoder,) = self.wrapped
        if encoder.device != wave.device:
            encoder.to(wave.device)
        found = encoder.encode_batch([row[:count] for row, count in zip(wave, samples, strict=True)])
        counts = torch.tensor([len(row) for row in found], device=wave.device)
        return nn.utils.rnn.pad_sequence(found, batch_first=True), counts


class LogMelStream:
    """Log-mel bands of sound that arrives bit by bit; joined, they are those of the whole.

    Raises:
        InputError: the features are normalized by recording.
    """

    def __init__(self, features: LogMelFeatures) -> None:
        if features.normalize in ("per_feature", "all_features") or features.reflect:
            raise InputError(
                f"perception: features normalized {features.normalize} need the whole recording; a stream needs "
                "a model with normalize NA"
            )
        self.features = features
        self._previous: Tensor | None = None
        self._waiting: Tensor | None = None
        self._samples = self._frames = 0

    def step(self, wave: Tensor, last: bool = False) -> Tensor:
        """The next bands (B, t, D) for the next samples (B, n)."""
        features = self.features
        margin = features.n_fft // 2
        x, wave = wave.float(), wave.float()
        if features.preemph is not None and wave.size(1):
            before = torch.zeros_like(wave[:, :1]) if self._previous is None else self._previous
            x = wave - features.preemph * torch.cat([before, wave[:, :-1]], 1)
            self._previous = wave[:, -1:]
        self._samples += wave.size(1)
        kept = wave.new_zeros(len(wave), margin) if self._waiting is None else self._waiting
        x = torch.cat([kept, x, x.new_zeros(len(x), margin if last else 0)], 1)
        count = max((x.size(1) - features.n_fft) // features.hop + 1, 0)
        if last:
            count = min(count, self._samples // features.hop - self._frames)
        self._frames, self._waiting = self._frames + count, x[:, count * features.hop :]
        if count <= 0:
            return x.new_zeros(len(x), 0, features.dim)
        power = features.power(x[:, : features.n_fft + (count - 1) * features.hop], features.window)
        return features.bands(power).transpose(1, 2)


@dataclass
class PerceptionStream:
    """The state of a stream of one or several rows of sound; see :meth:`Perception.stream`."""

    perception: Perception
    features: LogMelStream
    encoder: ConformerState
    adapter: ConformerState | None
    frames: int = field(default=0)

    @torch.no_grad()
    def step(self, wave: Tensor, last: bool = False) -> Tensor:
        """The next embeddings (B, t, H), t of 0 on, for the next samples (B, n); ``last`` ends the stream."""
        perception = self.perception
        x = self.features.step(wave, last).to(perception._dtype)
        encoder: Any = perception.encoder
        if x.size(1) or last:
            x = encoder.step(x, self.encoder, last)
        else:
            x = x.new_zeros(len(x), 0, encoder.dim)
        if self.adapter is not None:
            adapter: Any = perception.modality_adapter
            x = adapter.step(x, self.adapter, last)
        self.frames += x.size(1)
        embeddings: Tensor = perception.project(x)
        return embeddings


def build_encoder(section: Mapping[str, Any], where: str) -> ConformerEncoder | ConvEncoder:
    """The encoder of a section; raises :class:`InputError` for a kind that is not known."""
    kind = _kind(section)
    if kind == CONVOLUTIONS:
        return ConvEncoder(section)
    if kind != CONFORMER:
        raise InputError(f"{where}: {section.get('_target_')} is not known; expected {CONFORMER} or {CONVOLUTIONS}")
    return ConformerEncoder(conformer_config(section, where))


def find_encoder(
    config: Mapping[str, Any], folder: str | os.PathLike[str] | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """:func:`pretrained_encoder` of ``pretrained_asr`` in a model's configuration, where it has pretrained weights.

    Args:
        folder: from which a relative path is looked for, too.

    Returns:
        Empty dictionaries where nothing is to be read.
    """
    source = config.get("pretrained_asr")
    if not source or source == "none" or not config.get("pretrained_weights", True):
        return {}, {}
    path = find_folder(source, folder)
    if path is None:
        raise InputError(f"pretrained_asr {source}: no such file; download its .nemo file, or say none")
    return pretrained_encoder(path)


def load_encoder(perception: Perception, weights: Mapping[str, Tensor], where: str) -> None:
    """Take the weights of :func:`find_encoder`; the others stay."""
    own = {name: one for name, one in perception.state_dict().items() if name not in weights}
    check_weights(perception, {**own, **weights}, where)
    perception.load_state_dict({**own, **weights})


def pretrained_encoder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a recogniser gives to a perception module.

    Args:
        path: a ``.nemo`` file, or a checkpoint of fairseq-train of the task speech_recognition.

    Returns:
        Sections ``preprocessor`` and ``encoder`` of the configuration, with ``reflect``; and the weights of both.

    Raises:
        InputError: it cannot be read, or is no recogniser.
    """
    if path.suffix == ".nemo":
        file = read_nemo(path)
        config, weights = {**file.config, "reflect": file.old_front_end}, file.weights
    else:
        network = load_network(path).network
        config, weights = network.config, network.state_dict()
    for name in ("preprocessor", "encoder"):
        if not isinstance(config.get(name), Mapping):
            raise InputError(f"{path}: no section {name} in its configuration: it is no recogniser")
    sections = {name: config[name] for name in ("preprocessor", "encoder", "reflect")}
    return sections, {name: one for name, one in weights.items() if name.startswith(("preprocessor.", "encoder."))}


def _kind(section: Mapping[str, Any]) -> str:
    """The class that a section of a configuration names; it is never imported."""
    default = CONVOLUTIONS if "jasper" in section else CONFORMER
    return str(section.get("_target_", default)).rpartition(".")[2]
