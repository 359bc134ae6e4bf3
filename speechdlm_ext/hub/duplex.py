"""Duplex speech-to-speech models from Python: published folders, inference on recordings and in streams, training."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechdlm_ext.checkpoints.duplex import read_duplex, write_duplex
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.duplex import DuplexOptions, FrameChooser, decode_frames
from speechdlm_ext.hub.duplex_stream import CONTEXT_SECONDS, DuplexStream
from speechdlm_ext.models.duplex_s2s import DuplexParts, DuplexS2S, DuplexS2SSpeechDecoder, build_duplex
from speechdlm_ext.modules.duplex_frames import DuplexFrames, unstack_codes, without_control_codes
from speechdlm_ext.modules.linear import Linear
from speechdlm_ext.modules.padding import frame_mask


class DuplexS2SModel(nn.Module):
    """A duplex model with all that it needs: tokenizer, perception, language model, codec.

    ::

        model = DuplexS2SModel.from_pretrained("path/to/folder")
        said = model.offline_inference(input_signal, input_signal_lens)  # {"text", "tokens_text", …, "audio"}
        stream = model.streaming()
        step = stream.step(chunk)  # .text, .codes, .audio

    Args:
        cfg: the section ``model`` of a published configuration, see :func:`.build_duplex`.
        beside: folder from which relative paths in it are looked for, after the working directory.

    Raises:
        InputError: as :meth:`.DuplexParts.of` and :func:`.build_duplex`.
    """

    kind: ClassVar[type[DuplexS2S]] = DuplexS2S

    def __init__(self, cfg: Mapping[str, Any], beside: str | os.PathLike[str] | None = None) -> None:
        parts = DuplexParts.of(dict(cfg), None if beside is None else Path(beside))
        self._set(build_duplex(parts), parts)

    def _set(self, model: DuplexS2S, parts: DuplexParts) -> None:
        if type(model) is not self.kind:
            other = "without" if self.kind is DuplexS2S else "with"
            raise InputError(f"this model is not one {other} a speech decoder: load it with the other class")
        super().__init__()
        self.model, self.audio_codec = model, parts.codec.eval()
        self.parts, self.cfg, self.tokenizer = parts, dict(parts.config), parts.tokenizer

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], trust: bool | None = None) -> DuplexS2SModel:
        """Load a folder of ``save_pretrained`` (NeMo's or ours), or a checkpoint of fairseq-train.

        Raises:
            InputError: as :func:`.read_duplex`, or it is a model of the other class.
        """
        made = cls.__new__(cls)
        made._set(*read_duplex(path, trust))
        return made.eval()

    def save_pretrained(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the published form."""
        write_duplex(folder, self.model, self.parts, overwrite)

    def to_int8(self) -> DuplexS2SModel:
        """Let linear layers compute with weights of 8 bits (torch's dynamic quantization); returns itself.

        For inference on a CPU, where reading weights takes most of a step. It cannot be saved afterwards.
        """
        from torch.ao.quantization import quantize_dynamic

        ours: list[nn.Module] = [module for module in self.model.modules() if type(module) is Linear]
        for module in ours:  # it knows no class made of nn.Linear
            module.__class__ = nn.Linear
        with warnings.catch_warnings():  # its tensors will have another type in a later PyTorch
            warnings.simplefilter("ignore")
            self.model = quantize_dynamic(self.model, {nn.Linear}, dtype=torch.qint8, inplace=True)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def perception(self) -> Any:
        """From the user's sound to embeddings."""
        return self.model.perception

    @property
    def source_sample_rate(self) -> int:
        """Of the user's sound, in Hz."""
        rate: int = self.model.perception.sample_rate
        return rate

    @property
    def target_sample_rate(self) -> int:
        """Of the agent's sound, in Hz."""
        return self.audio_codec.sample_rate

    def encode_target(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch of :class:`.DuplexS2SDataset` with codes ``(B, L, Q)`` of the agent's sound, if they are missing."""
        if "target_codes" in batch:
            return dict(batch)
        lengths = batch["target_audio_lens"]
        codes = self.audio_codec.encode(batch["target_audio"], lengths).transpose(1, 2)
        return {**batch, "target_codes": codes, "target_codes_lens": self.audio_codec.frames(lengths.long())}

    def prepare_inputs(self, batch: Mapping[str, Any]) -> DuplexFrames:
        """The channels of a batch in step."""
        return self.model.prepare(self.encode_target(batch))

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, DuplexFrames]:
        """See :meth:`.DuplexS2S.forward`; the codes of the agent's sound are made where they are missing."""
        made: tuple[Tensor, Tensor, DuplexFrames] = self.model(self.encode_target(batch))
        return made

    @torch.no_grad()
    def offline_inference(
        self,
        input_signal: Tensor,
        input_signal_lens: Tensor,
        decode_audio: bool = True,
        options: DuplexOptions | None = None,
    ) -> dict[str, Any]:
        """What the agent says to recordings of the user.

        Args:
            input_signal: ``(B, N)`` at :attr:`source_sample_rate`.
            input_signal_lens: samples of each row ``(B,)``.
            decode_audio: whether to make sound of the codes.
            options: of decoding; greedy by default.

        Returns:
            ``text``, of each row; ``tokens_text`` ``(B, T)``; ``tokens_audio`` ``(B, T, K)``; ``tokens_len`` ``(B,)``;
            ``audio`` ``(B, N')`` at :attr:`target_sample_rate`, and ``audio_len`` ``(B,)``.

        Raises:
            InputError: no sound, shapes that do not fit, samples that are not numbers, or more frames than the language
                model has positions.
        """
        if input_signal.dim() != 2 or not input_signal.numel() or input_signal_lens.shape != input_signal.shape[:1]:
            raise InputError(
                f"sound of shape {tuple(input_signal.shape)} with lengths {tuple(input_signal_lens.shape)}: (B, N) and "
                "(B,) are expected, with one sample or more"
            )
        if not bool(torch.isfinite(input_signal).all()):
            raise InputError("sound with a sample that is not a finite number")
        core = self.model
        user, lengths = core.perception(input_signal, input_signal_lens)
        state = core.make_state(len(user), user.size(1))
        tokens, codes = decode_frames(core, user, state, FrameChooser(options or DuplexOptions(), range(len(user))))
        beyond = ~frame_mask(lengths, user.size(1))
        tokens = tokens.masked_fill(beyond, core.ids.text_pad)
        codes = codes.masked_fill(beyond.unsqueeze(2), core.ids.speech_delay)
        rows = zip(tokens.tolist(), lengths.tolist(), strict=True)
        said: dict[str, Any] = {
            "text": [self.tokenizer.ids_to_text(self.parts.words(row[:size])) for row, size in rows],
            "tokens_text": tokens,
            "tokens_audio": codes,
            "tokens_len": lengths,
        }
        if decode_audio:
            known = without_control_codes(codes, codes[:, 0], core.ids)
            frames = lengths * self.parts.per_frame
            sound = unstack_codes(known, self.parts.per_frame).transpose(1, 2)
            said["audio"] = self.audio_codec.decode(sound, frames)
            said["audio_len"] = frames * self.audio_codec.hop
        return said

    def streaming(
        self,
        batch: int = 1,
        options: DuplexOptions | None = None,
        context_seconds: float = CONTEXT_SECONDS,
        force_turn_taking: int = 0,
        is_speech: Callable[[Tensor], Tensor] | None = None,
    ) -> DuplexStream:
        """A conversation that is still going on; the arguments are those of :class:`.DuplexStream`."""
        return DuplexStream(self, batch, options, context_seconds, force_turn_taking, is_speech)


class DuplexS2SSpeechDecoderModel(DuplexS2SModel):
    """The same with an autoregressive speech decoder, and classifier-free guidance where it was trained for it."""

    kind = DuplexS2SSpeechDecoder


def load_duplex(path: str | os.PathLike[str], trust: bool | None = None) -> DuplexS2SModel:
    """Load a duplex model of either class; arguments and errors as :meth:`DuplexS2SModel.from_pretrained`."""
    core, parts = read_duplex(path, trust)
    kind = DuplexS2SSpeechDecoderModel if isinstance(core, DuplexS2SSpeechDecoder) else DuplexS2SModel
    model = kind.__new__(kind)
    model._set(core, parts)
    return model.eval()
