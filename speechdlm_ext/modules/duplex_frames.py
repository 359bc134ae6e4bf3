"""The channels of a duplex model in step: text, codes of the agent's sound, and the user's sound, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from speechdlm_ext.modules.padding import frame_mask

IGNORED = -100  # a label that is not trained on


@dataclass(frozen=True)
class ChannelIds:
    """Ids that mean something else than text or sound.

    Attributes:
        text_bos, text_eos, text_pad: of the tokenizer: around a turn, and between.
        codes: size C of a codebook; C, C + 1 and C + 2 are the frames of BOS, of EOS, and before the first.
    """

    text_bos: int
    text_eos: int
    text_pad: int
    codes: int

    @property
    def speech_bos(self) -> int:
        """The code of frames in which a turn begins."""
        return self.codes

    @property
    def speech_eos(self) -> int:
        """The code of frames in which a turn ends."""
        return self.codes + 1

    @property
    def speech_delay(self) -> int:
        """The code before the first frame."""
        return self.codes + 2

    @property
    def all_codes(self) -> int:
        """Codes of a codebook with those of control."""
        return self.codes + 3


@dataclass(frozen=True)
class DuplexFrames:
    """What a duplex model reads and learns to predict in one batch, ``T`` frames each.

    Attributes:
        user: embeddings of the user's sound ``(B, T, H)``.
        text: text channel ``(B, T)``.
        codes: of the frame before ``(B, T, K)``.
        text_labels: of the next frame ``(B, T)``, :data:`IGNORED` beyond a row's end.
        code_labels: of this frame ``(B, T, K)``, the same.
        lengths: frames of each row ``(B,)`` that are trained on.
    """

    user: Tensor
    text: Tensor
    codes: Tensor
    text_labels: Tensor
    code_labels: Tensor
    lengths: Tensor


def align_channels(
    user: Tensor, user_lens: Tensor, text: Tensor, codes: Tensor, code_lens: Tensor, ids: ChannelIds
) -> DuplexFrames:
    """Cut the channels to the shortest, mark the turns in the codes, and shift: text runs one frame ahead of the codes.

    Args:
        user: embeddings ``(B, T1, H)`` of rows of ``user_lens`` frames.
        text: ``(B, T2)``; padded or cut to the user's frames.
        codes: ``(B, T3, K)`` of rows of ``code_lens`` frames.
        ids: see :class:`ChannelIds`.
    """
    length = min(user.size(1), codes.size(1))
    user, codes = user[:, :length], codes[:, :length]
    missing = length - text.size(1)
    text = torch.nn.functional.pad(text, (0, missing), value=ids.text_pad) if missing > 0 else text[:, :length]
    for mark, code in ((ids.text_bos, ids.speech_bos), (ids.text_eos, ids.speech_eos)):
        codes = codes.masked_fill(text.eq(mark).unsqueeze(2), code)
    shifted = torch.cat([torch.full_like(codes[:, :1], ids.speech_delay), codes], 1)[:, :-1]
    lengths = torch.minimum(user_lens, code_lens).clamp_max(length) - 1
    beyond = ~frame_mask(lengths, length - 1)
    return DuplexFrames(
        user=user[:, :-1],
        text=text[:, :-1],
        codes=shifted[:, :-1],
        text_labels=text[:, 1:].masked_fill(beyond, IGNORED),
        code_labels=shifted[:, 1:].masked_fill(beyond.unsqueeze(2), IGNORED),
        lengths=lengths,
    )


def stack_codes(codes: Tensor, per_frame: int) -> Tensor:
    """Codes of a codec with several of its frames in one of the model: ``(B, L, Q)`` to ``(B, ⌊L/n⌋, n·Q)``."""
    whole = codes.size(1) // per_frame * per_frame
    return codes[:, :whole].unflatten(1, (-1, per_frame)).flatten(2)


def unstack_codes(codes: Tensor, per_frame: int) -> Tensor:
    """The inverse of :func:`stack_codes`."""
    return codes.unflatten(2, (per_frame, -1)).flatten(1, 2)


def without_control_codes(codes: Tensor, first: Tensor, ids: ChannelIds) -> Tensor:
    """Codes that the codec knows: those of control become the first frame's of their codebook.

    Args:
        codes: ``(B, T, K)``.
        first: of frame 0, ``(B, K)``; a code of control there counts modulo the codebook's size, as published codecs
            read it.
    """
    return torch.where(codes >= ids.codes, (first % ids.codes).unsqueeze(1), codes)
