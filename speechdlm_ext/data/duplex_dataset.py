"""Conversations of a user and an agent as batches for duplex models."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from speechdlm_ext.codecs.base import Codec
from speechdlm_ext.data.duplex_cuts import DuplexCut, cut_of_row, read_cuts, read_sound
from speechdlm_ext.data.text_channel import (
    FRAME_SECONDS,
    TextChannel,
    TextIds,
    build_token_channel,
    check_turns,
    strip_timestamps,
)
from speechdlm_ext.data.token_dataset import TokenDataset
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.padding import pad_right

logger = logging.getLogger(__name__)

_CODES_AMISS = 0.5  # s by which codes may be longer or shorter than the recording: a codec has frames of its own


class DuplexS2SDataset(Dataset):
    """Makes a batch of cuts, as NeMo's data set of this name::

        dataset = DuplexS2SDataset(model.tokenizer, 0.08, 16000, 22050, ["user"], ["agent"])
        batch = dataset[read_cuts("cuts.jsonl")]

    Args:
        tokenizer: of the language model.
        frame_length: seconds of a frame of the text channel.
        source_sample_rate: of the user's sound, in Hz; files of other rates are resampled.
        target_sample_rate: of the agent's.
        input_roles: the speakers of the user's side.
        output_roles: the speakers whose turns the model learns to say.
        cut_at_turn_end: see :func:`.build_token_channel`.
        needs_target: whether a cut without the agent's sound or codes is refused, as for training.
        codec: makes codes of the agent's sound where a cut has none; ``None`` leaves them to the model.
    """

    def __init__(
        self,
        tokenizer: Any,
        frame_length: float = FRAME_SECONDS,
        source_sample_rate: int = 16000,
        target_sample_rate: int = 22050,
        input_roles: Sequence[str] | None = None,
        output_roles: Sequence[str] | None = None,
        cut_at_turn_end: bool = False,
        needs_target: bool = True,
        codec: Codec | None = None,
    ) -> None:
        self.tokenizer, self.frame_length = tokenizer, frame_length
        self.source_sample_rate, self.target_sample_rate = source_sample_rate, target_sample_rate
        self.input_roles, self.output_roles = set(input_roles or ["user"]), set(output_roles or ["agent"])
        self.cut_at_turn_end, self.needs_target, self.codec = cut_at_turn_end, needs_target, codec
        self.ids = TextIds(self._encode, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)

    def __getitem__(self, cuts: Sequence[DuplexCut | Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of some cuts; see :meth:`collate`."""
        return self.collate([self.load(cut) for cut in cuts])

    def _encode(self, text: str) -> Sequence[int]:
        ids: Sequence[int] = self.tokenizer.text_to_ids(strip_timestamps(text))
        return ids

    def channel(self, cut: DuplexCut, roles: set[str]) -> TextChannel:
        """The text channel of some speakers."""
        return build_token_channel(
            cut.duration, cut.turns, roles, self.ids, self.frame_length, self.source_sample_rate, self.cut_at_turn_end
        )

    def check(self, cut: DuplexCut) -> None:
        """Raise :class:`InputError` where a cut cannot be trained on."""
        check_turns(cut.turns, cut.duration, self.output_roles, cut.where, self.frame_length)
        if cut.codes is not None and self.codec is not None:
            self._check_codes(cut, self.codec)
        if cut.target is None and cut.codes is None and self.needs_target:
            raise InputError(
                f"{cut.where}: no sound of the agent: expected custom.target_audio of a lhotse cut, a second channel, "
                "target_audio_filepath, or codec"
            )

    def _check_codes(self, cut: DuplexCut, codec: Codec) -> None:
        """Raise :class:`InputError` unless codes are those of the codec."""
        assert cut.codes is not None and cut.codec_rate is not None
        found = (cut.codes.size(1), cut.codec_rate, int(cut.codes.max()) if cut.codes.numel() else 0)
        if found[0] != codec.num_codebooks or found[1] != codec.frame_rate or found[2] >= codec.codebook_size:
            raise InputError(
                f"{cut.where}: codec has {found[0]} codebooks at {found[1]:g} Hz with codes up to {found[2]}, the "
                f"model's has {codec.num_codebooks} at {codec.frame_rate:g} Hz with codes below {codec.codebook_size}"
            )
        seconds = len(cut.codes) / cut.codec_rate
        if seconds < self.frame_length or abs(seconds - cut.duration) > _CODES_AMISS:
            raise InputError(
                f"{cut.where}: codec has {len(cut.codes)} codes, {seconds:g} s, the recording is {cut.duration:g} s"
            )

    def load(self, cut: DuplexCut | Mapping[str, Any]) -> dict[str, Any]:
        """One cut as tensors.

        Raises:
            InputError: its supervisions or its files cannot be, see :meth:`check`.
        """
        if not isinstance(cut, DuplexCut):
            cut = cut_of_row(cut if isinstance(cut, Mapping) else cut.to_dict())
        self.check(cut)
        item: dict[str, Any] = {
            "source_audio": read_sound(cut.source, self.source_sample_rate),
            "source_tokens": torch.from_numpy(self.channel(cut, self.input_roles).tokens),
            "target_tokens": torch.from_numpy(self.channel(cut, self.output_roles).tokens),
            "target_text": cut.target_text(self.output_roles),
        }
        if cut.codes is not None:
            item["target_codes"] = cut.codes
        elif cut.target is not None:
            sound = read_sound(cut.target, self.target_sample_rate)
            if self.codec is None:
                item["target_audio"] = sound
            else:
                item["target_codes"] = self.codec.encode(sound.unsqueeze(0))[0].T
        return item

    def collate(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Pad items to one batch.

        Returns:
            ``source_audio`` ``(B, N)``, ``target_audio`` ``(B, N')`` or ``target_codes`` ``(B, T, K)``,
            ``source_tokens`` and ``target_tokens`` ``(B, T)``, each with its lengths (``…_lens``), and
            ``target_texts``.

        Raises:
            InputError: some items have codes, and some sound.
        """
        batch: dict[str, Any] = {}
        kinds = {key for item in items for key in ("target_audio", "target_codes") if key in item}
        if len(kinds) > 1 or any(key not in item for key in kinds for item in items):
            raise InputError(
                "some conversations of a batch have codes of the agent's sound, some not: encode all, or none"
            )
        for key in ("source_audio", *sorted(kinds)):
            rows = [item[key] for item in items]
            batch[key] = pad_sequence(rows, batch_first=True)
            batch[f"{key}_lens"] = torch.tensor([len(row) for row in rows], dtype=torch.int32)
        for name in ("source", "target"):
            rows = [item[f"{name}_tokens"] for item in items]
            batch[f"{name}_tokens"] = pad_right(rows, self.ids.pad)
            batch[f"{name}_token_lens"] = torch.tensor([len(row) for row in rows])
        batch["target_texts"] = [item["target_text"] for item in items]
        return batch


class DuplexCuts(TokenDataset):
    """Conversations for fairseq; ``--max-tokens`` counts frames of the text channel, padding included.

    Args:
        cuts: these, or the file of them (:func:`.read_cuts`).
        maker: of batches.

    Raises:
        InputError: as :func:`.read_cuts`, or a conversation cannot be trained on.
    """

    def __init__(
        self,
        cuts: Sequence[DuplexCut] | str | os.PathLike[str],
        maker: DuplexS2SDataset,
        shuffle: bool = False,
        seed: int = 1,
    ) -> None:
        super().__init__(maker.ids.pad, shuffle, seed)
        self.maker = maker
        self.cuts = read_cuts(cuts) if isinstance(cuts, (str, os.PathLike)) else list(cuts)
        sizes, lost = [], 0
        for cut in self.cuts:
            maker.check(cut)
            channel = maker.channel(cut, maker.output_roles)
            sizes.append(len(channel.tokens))
            lost += channel.lost
            if channel.lost and lost == channel.lost:
                logger.warning("%s: no frames for %s", cut.where, "; ".join(channel.notes))
        if lost:
            logger.warning("%d tokens of text have no frame and are skipped", lost)
        self.sizes = np.array(sizes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": index, **self.maker.load(self.cuts[index])}

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch of :meth:`DuplexS2SDataset.collate` as ``net_input``."""
        if not samples:
            return {}
        samples = sorted(samples, key=lambda sample: (-len(sample["target_tokens"]), sample["id"]))
        batch = self.maker.collate(samples)
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": int(batch["target_token_lens"].sum()),
            "target_texts": batch.pop("target_texts"),
            "net_input": {"batch": batch},
        }
