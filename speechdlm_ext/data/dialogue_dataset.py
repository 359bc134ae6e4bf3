"""Blocks of all channels' units side by side, with their edges and durations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fairseq.data.token_block_utils_fast import _get_slice_indices_fast
from torch import Tensor

from speechdlm_ext.data.channel_dictionary import ChannelDictionary
from speechdlm_ext.data.token_dataset import SizedDataset
from speechdlm_ext.data.unit_counts import edge_fields
from speechdlm_ext.data.unit_stream import UnitStream
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.padding import pad_right


def run_durations(units: np.ndarray, length: int, cap: int) -> np.ndarray:
    """Lengths of the runs of equal units, at the frames where they start.

    Args:
        units: one channel's units: the frames of a block, then those that follow it.
        length: frames of the block.
        cap: greatest duration, in frames.

    Returns:
        ``(length,)``: the duration in frames at each edge (the block's first frame counts as one), 0 elsewhere. The
        last run goes on counting in the frames that follow the block (Nguyen et al. 2022, section 4.3).
    """
    change = np.flatnonzero(units[1:] != units[:-1]) + 1
    starts = np.concatenate([[0], change])
    durations = np.minimum(np.diff(np.append(starts, len(units))), cap)
    inside = starts < length
    out = np.zeros(length, dtype=np.int64)
    out[starts[inside]] = durations[inside]
    return out


def check_alignment(streams: Sequence[UnitStream], channels: Sequence[str]) -> None:
    """Raise :class:`InputError` unless every line is equally long in all channels; names file, line and lengths."""
    first = streams[0]
    for channel, stream in zip(channels[1:], streams[1:], strict=True):
        if len(stream.sizes) != len(first.sizes):
            raise InputError(
                f"{stream.path}: {len(stream.sizes)} lines in channel {channel}, {len(first.sizes)} in "
                f"{channels[0]} ({first.path}): the channels of a dialogue must be on the same line of both files"
            )
        unequal = np.flatnonzero(stream.sizes != first.sizes)
        if len(unequal):
            line = int(unequal[0])
            raise InputError(
                f"{stream.path}, line {line + 1}: {stream.sizes[line]} frames in channel {channel}, "
                f"{first.sizes[line]} in {channels[0]} ({first.path}), </s> included; {len(unequal)} line(s) differ: "
                "make the channels of each dialogue equally long and binarize again"
            )


class DialogueDataset(SizedDataset):
    """Blocks ``(T, C)`` cut from C aligned streams of units.

    The source of a block is its target one frame earlier; before the first frame of a line that is ``</s>``.
    ``--max-tokens`` counts frames, whatever the number of channels.

    Args:
        streams: one for each channel, aligned line by line.
        dictionary: the channels' dictionaries.
        block_size: frames in a block.
        break_mode: ``none`` fills every block, ``complete`` breaks at ends of lines only, ``eos`` makes each line a
            block, ``complete_doc`` is ``complete`` within documents, which empty lines separate.
        max_duration: durations are counted up to this many frames.
        shuffle: whether batches are made of blocks in random order.
        start_symbol: what comes before the first frame of a line; ``</s>`` by default.

    Raises:
        InputError: the channels are not aligned, or there is nothing in them.
    """

    def __init__(
        self,
        streams: Sequence[UnitStream],
        dictionary: ChannelDictionary,
        block_size: int,
        break_mode: str = "none",
        max_duration: int = 256,
        shuffle: bool = False,
        start_symbol: int | None = None,
    ) -> None:
        check_alignment(streams, dictionary.channels)
        if not len(streams[0]):
            raise InputError(f"{streams[0].path}: no units in it")
        self.streams = list(streams)
        self.pad = dictionary.pad()
        self.start_symbol = dictionary.eos() if start_symbol is None else start_symbol
        self.max_duration = max_duration
        self.shuffle = shuffle
        self.blocks = _get_slice_indices_fast(streams[0].sizes, break_mode, block_size, 1)
        self.sizes = (self.blocks[:, 1] - self.blocks[:, 0]).astype(np.int64)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, end = (int(edge) for edge in self.blocks[index])
        columns = [stream.read(max(start - 1, 0), end + self.max_duration) for stream in self.streams]
        before = 1 if start else 0
        target = np.stack([units[before : before + end - start] for units in columns], 1)
        previous = [self.start_symbol] * len(columns)
        if not self.streams[0].starts_line(start):
            previous = [int(units[0]) for units in columns]
        durations = [run_durations(units[before:], end - start, self.max_duration) for units in columns]
        return {
            "id": index,
            "source": torch.from_numpy(np.concatenate([np.array([previous]), target[:-1]])),
            "target": torch.from_numpy(target),
            "durations": torch.from_numpy(np.stack(durations, 1)),
        }

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad on the right and stack.

        Returns:
            ``net_input`` with ``src_tokens`` ``(B, T, C)`` and ``src_lengths`` ``(B,)``; ``target`` ``(B, T, C)``;
            ``durations`` ``(B, T, C)`` in frames at edges, 0 elsewhere and in the padding; the fields of
            :func:`.edge_fields`; ``ntokens`` counts frames.
        """
        if not samples:
            return {}
        lengths = torch.tensor([len(s["target"]) for s in samples])
        target = pad_right([s["target"] for s in samples], self.pad)
        durations = pad_right([s["durations"] for s in samples], 0)
        return {
            "id": torch.tensor([s["id"] for s in samples]),
            "nsentences": len(samples),
            "ntokens": int(lengths.sum()),
            "net_input": {
                "src_tokens": pad_right([s["source"] for s in samples], self.pad),
                "src_lengths": lengths,
            },
            "target": target,
            "durations": durations,
            **edge_fields(target, durations, self.pad),
        }

    def ordered_indices(self) -> np.ndarray:
        """Every block once: in corpus order, or for training blocks of like size at random."""
        if not self.shuffle:
            return np.arange(len(self))
        # The same permutation as that of fairseq's MonolingualDataset, for the same seed and blocks.
        return np.lexsort((np.random.permutation(len(self)), self.sizes))


class PromptDataset(SizedDataset):
    """Prompts ``(T, C)`` for generation, each after the start symbol."""

    def __init__(self, prompts: Sequence[Tensor], start_symbol: int, pad: int) -> None:
        self.prompts = list(prompts)
        self.start_symbol, self.pad = start_symbol, pad
        self.sizes = np.array([len(prompt) + 1 for prompt in prompts], dtype=np.int64)

    def __getitem__(self, index: int) -> dict[str, Any]:
        prompt = self.prompts[index]
        return {"id": index, "source": torch.cat([prompt.new_full((1, prompt.size(1)), self.start_symbol), prompt])}

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad on the right and stack, as :meth:`DialogueDataset.collater`, without targets."""
        if not samples:
            return {}
        return {
            "id": torch.tensor([s["id"] for s in samples]),
            "nsentences": len(samples),
            "net_input": {
                "src_tokens": pad_right([s["source"] for s in samples], self.pad),
                "src_lengths": torch.tensor([len(s["source"]) for s in samples]),
            },
            "target": None,
        }

    def ordered_indices(self) -> np.ndarray:
        """In the order given."""
        return np.arange(len(self))
