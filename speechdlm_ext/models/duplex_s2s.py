"""Duplex speech-to-speech models: a language model that hears the user and speaks, frame by frame (NeMo speechlm2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.models import BaseFairseqModel
from torch import Tensor, nn

from speechdlm_ext.modules.backbone import config_of, make_cache, run_backbone
from speechdlm_ext.modules.duplex_frames import ChannelIds, DuplexFrames, align_channels, stack_codes
from speechdlm_ext.modules.speech_decoder import SpeechDecoder, SpeechDecoderOptions, SpeechDecoderState


@dataclass
class DuplexState:
    """What a duplex model remembers of the frames that it has read.

    Attributes:
        cache: of the language model.
        text: the next frame's token ``(B,)``.
        codes: of the frame before ``(B, K)``.
        decoder: of the speech decoder, where there is one.
    """

    cache: Any
    text: Tensor
    codes: Tensor
    decoder: SpeechDecoderState | None = None


class DuplexS2S(BaseFairseqModel):
    """At frame t the model has read text t, the user's frame t and codes t - 1; it predicts text t + 1 and codes t.

    Parameters are named as in the published weights.

    Args:
        llm: language model without embeddings and head, see :mod:`.backbone`.
        embed_tokens: its token embeddings.
        lm_head: its head.
        perception: from the user's sound to embeddings of the language model's width, one each frame.
        ids: of control.
        codebooks: K, codes of a frame.
        user_weight: factor of the user's embeddings.
    """

    def __init__(
        self,
        llm: nn.Module,
        embed_tokens: nn.Module,
        lm_head: nn.Module,
        perception: nn.Module,
        ids: ChannelIds,
        codebooks: int,
        user_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.ids, self.codebooks, self.user_weight = ids, codebooks, user_weight
        self.llm, self.embed_tokens, self.lm_head, self.perception = llm, embed_tokens, lm_head, perception
        dim = config_of(llm).hidden_size
        self.embed_audio_tokens = nn.ModuleList(nn.Embedding(ids.all_codes, dim) for _ in range(codebooks))
        self.audio_head = nn.Linear(dim, codebooks * ids.all_codes)
        self.register_buffer("_control_codes", torch.tensor([ids.speech_bos, ids.speech_eos, ids.speech_delay]))

    def prepare(self, batch: Mapping[str, Tensor]) -> DuplexFrames:
        """The channels of a batch of :class:`.DuplexS2SDataset` with codes, in step."""
        user, user_lens = self.perception(batch["source_audio"], batch["source_audio_lens"])
        per_frame = self.codebooks // batch["target_codes"].size(2)
        codes, code_lens = stack_codes(batch["target_codes"], per_frame), batch["target_codes_lens"] // per_frame
        return align_channels(user, user_lens, batch["target_tokens"], codes, code_lens, self.ids)

    def embed(self, user: Tensor, text: Tensor, codes: Tensor) -> Tensor:
        """What the language model reads, of user ``(B, T, H)``, text ``(B, T)`` and the last codes ``(B, T, K)``."""
        x = self.embed_tokens(text) + self.user_weight * user
        for book, embed in enumerate(self.embed_audio_tokens):
            x = x + embed(codes[..., book])
        return x

    def heads(
        self, user: Tensor, text: Tensor, codes: Tensor, state: DuplexState | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits of text ``(B, T, V)`` and codes ``(B, T, K, C + 3)``; arguments as :meth:`embed`."""
        hidden = run_backbone(self.llm, self.embed(user, text, codes), cache=None if state is None else state.cache)
        return self.lm_head(hidden), self.code_logits(hidden, codes, state)

    def code_logits(self, hidden: Tensor, codes: Tensor, state: DuplexState | None) -> Tensor:
        """Logits of codes from the language model's states."""
        made: Tensor = self.audio_head(hidden).unflatten(-1, (self.codebooks, -1))
        return made

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, DuplexFrames]:
        """Logits of text and codes, as :meth:`heads`, and the frames with their labels."""
        frames = self.prepare(batch)
        return *self.heads(frames.user, frames.text, frames.codes), frames

    def make_state(self, rows: int, capacity: int, rolling: bool = False) -> DuplexState:
        """The state before the first frame.

        Args:
            rows: B.
            capacity: frames that are remembered.
            rolling: the oldest frames are forgotten where there are more.
        """
        device = self._control_codes.device
        text = torch.full((rows,), self.ids.text_pad, device=device)
        codes = torch.full((rows, self.codebooks), self.ids.speech_delay, device=device)
        return DuplexState(make_cache(self.llm, capacity, rolling), text, codes)

    def step(self, user: Tensor, state: DuplexState) -> tuple[Tensor, Tensor]:
        """Read the user's next frame ``(B, H)``: logits of text ``(B, V)`` and codes ``(B, K, C + 3)``.

        What is chosen of them has to be written into the state.
        """
        text, codes = self.heads(user.unsqueeze(1), state.text.unsqueeze(1), state.codes.unsqueeze(1), state)
        return text[:, 0], codes[:, 0]


class DuplexS2SSpeechDecoder(DuplexS2S):
    """The same with a speech decoder of its own: the language model reads text and user, the decoder the codes."""

    def __init__(self, *args: Any, speech_decoder: SpeechDecoderOptions, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        dim = config_of(self.llm).hidden_size
        self.speech_generation = SpeechDecoder(speech_decoder, dim, self.codebooks, self.ids.all_codes)
        for unused in (self.embed_audio_tokens, self.audio_head):  # in published weights, and never read
            unused.requires_grad_(False)

    def embed(self, user: Tensor, text: Tensor, codes: Tensor) -> Tensor:
        """What the language model reads: no codes."""
        made: Tensor = self.embed_tokens(text) + self.user_weight * user
        return made

    def code_logits(self, hidden: Tensor, codes: Tensor, state: DuplexState | None) -> Tensor:
        """Logits of codes from the speech decoder."""
        made: Tensor = self.speech_generation(hidden, codes, None if state is None else state.decoder)
        return made

    def make_state(self, rows: int, capacity: int, rolling: bool = False) -> DuplexState:
        """See :meth:`DuplexS2S.make_state`."""
        state = super().make_state(rows, capacity, rolling)
        state.decoder = self.speech_generation.make_state(capacity, self._control_codes.device, rolling)
        return state
