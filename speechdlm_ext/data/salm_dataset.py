"""Data of speech-text models: conversations to batches, for fairseq's tasks and for loops of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from speechdlm_ext.data.conversations import Conversation
from speechdlm_ext.data.llm_tokenizer import LLMTokenizer
from speechdlm_ext.data.prompts import encode_dialog
from speechdlm_ext.data.splicing import splice
from speechdlm_ext.data.token_dataset import TokenDataset
from speechdlm_ext.errors import InputError

AUDIO_TAG = "<|audioplaceholder|>"
FRAME_SECONDS = 0.08


def pad_left(rows: Sequence[Sequence[Any]], value: Any) -> Tensor:
    """Rows as a tensor ``(B, T)``, with ``value`` before the shorter ones."""
    longest = max(map(len, rows))
    return torch.tensor([[value] * (longest - len(row)) + list(row) for row in rows])


class SALMDataset:
    """Conversations to batches: ``dataset[conversations]``.

    Args:
        tokenizer: of the model; the placeholder is added to it where it is missing.
        audio_locator_tag: the placeholder.
        prompt_format: see :func:`.encode_dialog`.
        sample_rate: of the audio, in Hz.
    """

    def __init__(
        self,
        tokenizer: LLMTokenizer,
        audio_locator_tag: str = AUDIO_TAG,
        prompt_format: str = "llama2",
        sample_rate: int = 16000,
    ) -> None:
        self.tokenizer, self.audio_locator_tag = tokenizer, audio_locator_tag
        self.prompt_format, self.sample_rate = prompt_format, sample_rate
        tokenizer.add_special_token(audio_locator_tag)

    def encode(self, conversation: Conversation) -> tuple[list[int], list[bool]]:
        """Token ids, and which are trained on; raises :class:`InputError` with the conversation's name."""
        try:
            return encode_dialog(self.tokenizer, conversation.turns, self.prompt_format)
        except InputError as error:
            raise InputError(f"conversation {conversation.id}: {error}") from None

    def measure(self, conversation: Conversation, output_frames: Callable[[Tensor], Tensor]) -> tuple[int, bool]:
        """Positions of text and audio, and whether any is trained on.

        Args:
            output_frames: positions that recordings of so many samples take.

        Raises:
            InputError: with the conversation's name, as :meth:`encode`, or a recording is too short for a frame.
        """
        ids, mask = self.encode(conversation)
        frames = output_frames(torch.tensor([round(one.duration * self.sample_rate) for one in conversation.audios]))
        for audio, count in zip(conversation.audios, frames.tolist(), strict=True):
            if count < 1:
                raise InputError(f"conversation {conversation.id}: {audio.path}: {audio.duration:g} s, not one frame")
        return len(ids) + int(frames.sum()) - len(frames), any(mask)

    def __getitem__(self, conversations: Sequence[Conversation]) -> dict[str, Any]:
        """A batch.

        Returns:
            ``audios`` (A, N) in the order of conversations and turns, and ``audio_lens`` (A,), both None where there
            is no audio; ``input_ids`` and ``loss_mask`` (B, T), padded on the left; ``conversations``.
        """
        encoded = [self.encode(one) for one in conversations]
        waves = [audio.read(self.sample_rate) for one in conversations for audio in one.audios]
        return {
            "audios": nn.utils.rnn.pad_sequence(waves, batch_first=True) if waves else None,
            "audio_lens": torch.tensor([len(wave) for wave in waves]) if waves else None,
            "input_ids": pad_left([ids for ids, _ in encoded], self.tokenizer.pad_id),
            "loss_mask": pad_left([mask for _, mask in encoded], False),
            "conversations": list(conversations),
        }


class ConversationDataset(TokenDataset):
    """Conversations as fairseq takes them, in batches of like length.

    Args:
        conversations: that end with an assistant's turn.
        collate: makes batches of them.
        output_frames: positions that recordings of so many samples take; by default one every 80 ms.
        batch_seconds: greatest amount of audio in a batch, padding included; None for any.
        longest: greatest number of positions; longer ones are skipped and counted in ``skipped``. None for any.
        shuffle, seed: as of :class:`TokenDataset`.

    Attributes:
        sizes: positions of text and audio.

    Raises:
        InputError: there are none, or one cannot be trained on.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        collate: SALMDataset,
        output_frames: Callable[[Tensor], Tensor] | None = None,
        batch_seconds: float | None = None,
        longest: int | None = None,
        shuffle: bool = False,
        seed: int = 1,
    ) -> None:
        super().__init__(collate.tokenizer.pad_id, shuffle, seed)
        self.collate, self.batch_seconds, self.longest = collate, batch_seconds, longest
        self.output_frames = output_frames or (
            lambda samples: -(-samples // round(FRAME_SECONDS * collate.sample_rate))
        )
        kept, sizes = [], []
        for one in conversations:
            size, trained = collate.measure(one, self.output_frames)
            if not trained:
                raise InputError(f"conversation {one.id}: no assistant's turn to train on")
            if longest is None or size <= longest:
                kept.append(one)
                sizes.append(size)
        self.skipped = len(conversations) - len(kept)
        if not kept:
            raise InputError(
                f"no conversations{f' of at most {longest} positions' if self.skipped else ''} to train on"
            )
        self.conversations, self.sizes = kept, np.array(sizes)
        self.seconds = np.array([max((audio.duration for audio in one.audios), default=0.0) for one in kept])
        self.audios = np.array([len(one.audios) for one in kept])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": index, "conversation": self.conversations[index]}

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch; sound goes as the bits of its floats, which fairseq does not round in half precision."""
        if not samples:
            return {}
        batch = self.collate[[sample["conversation"] for sample in samples]]
        frames = None if batch["audios"] is None else self.output_frames(batch["audio_lens"])
        tag = self.collate.tokenizer.add_special_token(self.collate.audio_locator_tag)
        layout = splice(batch["input_ids"], frames, batch["loss_mask"], tag, self.pad, self.longest)
        inputs = {"input_ids": batch["input_ids"], "layout": layout}
        if frames is not None:
            inputs |= {"audios": batch["audios"].view(torch.int32), "audio_lens": batch["audio_lens"]}
            layout["samples"] = batch["audio_lens"].tolist()
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": int(batch["loss_mask"].sum()),
            "net_input": inputs,
            **self._answers([sample["conversation"] for sample in samples], frames),
        }

    def _answers(self, conversations: Sequence[Conversation], frames: Tensor | None) -> dict[str, Any]:
        """The answers' words as what an alignment of audio and text needs, where each conversation is one audio's.

        Returns:
            ``words`` (U,), the different ids in them; ``answers`` (A, L), numbers of these from 1 on; lists of
            ``answer_lens`` and of the audio's ``frames``.
        """
        if frames is None or any(len(one.audios) != 1 or not one.answer for one in conversations):
            return {}
        ids = [self.collate.tokenizer.text_to_ids(one.answer) for one in conversations]
        words = sorted(set().union(*ids))
        number = {word: at for at, word in enumerate(words, 1)}
        rows = [torch.tensor([number[word] for word in row]) for row in ids]
        return {
            "words": torch.tensor(words),
            "answers": nn.utils.rnn.pad_sequence(rows, batch_first=True),
            "answer_lens": [len(row) for row in rows],
            "frames": frames.tolist(),
        }

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[np.ndarray]:
        """As of :class:`TokenDataset`, with at most ``batch_seconds`` of audio, padding included (or one item)."""
        batches = super().batch_by_size(indices, max_tokens, max_sentences, required_batch_size_multiple)
        if self.batch_seconds is None:
            return batches
        cut = []
        for batch in batches:
            start, count, longest = 0, 0, 0.0
            for at, index in enumerate(batch):
                count, longest = count + self.audios[index], max(longest, self.seconds[index])
                if at > start and count * longest > self.batch_seconds:
                    cut.append(batch[start:at])
                    start, count, longest = at, self.audios[index], self.seconds[index]
            cut.append(batch[start:])
        return cut
