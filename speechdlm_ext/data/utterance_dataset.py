"""Utterances of one channel of units, or blocks of them that start anywhere, packed into batches without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset
from torch import Tensor

from speechdlm_ext.data.dialogue_dataset import pad_right
from speechdlm_ext.data.mapped_stream import NumberedStream, check_durations
from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.errors import InputError

# Utterances whose lengths differ by less than this are batched at random.
ALIKE = 1.1


class UtteranceDataset(FairseqDataset):
    """What a unit language model reads and predicts.

    The stream is ``u … u BOS u … u BOS …``: the units of an utterance, then the boundary. An item has some of it as its
    target, and as its source the same one place earlier, which begins with BOS at the start of an utterance.

    - Whole utterances (``block_size`` is ``None``): one item each, predicted from BOS to BOS.
    - Blocks, as published for DP-SLM: each begins somewhere in an utterance and goes on into those that follow, with
      BOS kept between them; its first target, which has next to no context, is not trained on. In each epoch the
      stream is cut anew, at places that are ``block_size`` apart from a random first one in each document (empty lines
      separate documents), so that an epoch has every unit once and any place can be a start.

    Batches are packed: ``--max-tokens`` counts units and boundaries, whatever their utterances' lengths are; what is
    longer than that by itself makes a batch of its own. Nothing is left out for being long.

    Args:
        units: the units as rows of the vocabulary.
        dictionary: the vocabulary.
        durations: frames of each unit, aligned with them; its ends of lines count 0.
        block_size: targets in a block; ``None`` for whole utterances.
        shuffle: whether batches are composed at random, anew in each epoch.
        seed: of this randomness.

    Attributes:
        sizes: targets of each item, those not trained on counted as well.
        empty: utterances without a unit, which are left out.
        padded: whether batches are padded on the right instead, ``(B, T)``, for commands of fairseq that want that.

    Raises:
        InputError: durations that are not as many as the units, or no units.
    """

    def __init__(
        self,
        units: NumberedStream,
        dictionary: UnitDictionary,
        durations: NumberedStream | None = None,
        block_size: int | None = None,
        shuffle: bool = False,
        seed: int = 1,
    ) -> None:
        self.units, self.durations, self.dictionary = units, durations, dictionary
        self.block_size, self.shuffle, self.seed, self.epoch = block_size, shuffle, seed, 0
        self.padded = False
        if durations is not None:
            check_durations(units.stream, durations.stream)
        stream = units.stream
        self.full = np.flatnonzero(stream.sizes > 1)
        self.empty = len(stream.sizes) - len(self.full)
        if not len(self.full):
            raise InputError(f"{stream.path}: no units in it")
        self.set_epoch(1)

    def set_epoch(self, epoch: int) -> None:
        """Cut the stream into items, blocks anew in each epoch (called by fairseq)."""
        if epoch == self.epoch:
            return
        self.epoch = epoch
        stream = self.units.stream
        if self.block_size is None:
            self.ends = stream.ends[self.full]
            self.starts = self.ends - stream.sizes[self.full]
        else:
            self.starts, self.ends = self._cut(self.block_size)
        self.sizes = self.ends - self.starts

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Whether all epochs have the same batches (asked by fairseq)."""
        return not self.shuffle

    def _random(self, what: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch, what))

    def _cut(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Blocks of ``size`` targets from a random first place on, in each document; without those of one target."""
        stream = self.units.stream
        starts_document = np.diff(self.full, prepend=-2) > 1  # an empty line is between them, or it is the first
        first = self.full[starts_document]
        last = np.append(self.full[np.flatnonzero(starts_document)[1:] - 1], self.full[-1])
        begins, ends = stream.ends[first] - stream.sizes[first], stream.ends[last]
        cuts = [begins, ends]
        # A document has its first place at random in [begin, begin + size), and then every size-th.
        place = begins + self._random(0).integers(1, size + 1, len(begins))
        more = np.maximum(-(-(ends - place) // size), 0)
        offsets = np.arange(more.sum()) - np.repeat(np.cumsum(more) - more, more)
        cuts.append(np.repeat(place, more) + offsets * size)
        edges = np.unique(np.concatenate(cuts))
        starts, stops = edges[:-1], edges[1:]
        # Between documents there are empty lines; what begins at a document's end is not in one.
        inside = ~np.isin(starts, ends) & (stops - starts > 1)
        return starts[inside], stops[inside]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, end = int(self.starts[index]), int(self.ends[index])
        target = self.units.read(start, end)
        at_start = self.block_size is None or self.units.stream.starts_line(start)
        before = self.dictionary.bos() if at_start else int(self.units.read(start - 1, start)[0])
        source = np.concatenate([[before], target[:-1]])
        masked = int(self.block_size is not None)
        frames = int((target[masked:] != self.dictionary.eos()).sum())
        item = {"id": index, "source": torch.from_numpy(source)}
        if self.durations is not None:
            heard = self.durations.read(start, end)
            frames = int(heard[masked:].sum())
            first = 0 if at_start else int(self.durations.read(start - 1, start)[0])
            item["durations"] = torch.from_numpy(np.concatenate([[first], heard[:-1]]))
        target[:masked] = self.dictionary.pad()
        return {**item, "target": torch.from_numpy(target), "frames": frames, "masked": masked}

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Pack items, those of equal length beside one another.

        Returns:
            ``net_input`` with ``src_tokens`` ``(N,)`` and ``src_lengths``, a list of B integers; ``target`` ``(N,)``,
            padding where nothing is trained; ``durations`` ``(N,)`` of the units in ``src_tokens``, in frames, 0 for
            boundaries; ``frames``, how many the targets are (the units, without durations); ``ntokens`` counts
            targets that are trained on.
        """
        if not samples:
            return {}
        samples = sorted(samples, key=lambda sample: (-len(sample["target"]), sample["id"]))
        lengths = [len(sample["target"]) for sample in samples]
        batch = {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": sum(lengths) - sum(sample["masked"] for sample in samples),
            "frames": sum(sample["frames"] for sample in samples),
            "net_input": {"src_tokens": self._join(samples, "source"), "src_lengths": lengths},
            "target": self._join(samples, "target"),
        }
        if self.durations is not None:
            batch["durations"] = self._join(samples, "durations")
        return batch

    def _join(self, samples: Sequence[dict[str, Any]], name: str) -> Tensor:
        parts = [sample[name] for sample in samples]
        if not self.padded:
            return torch.cat(parts)
        return pad_right(parts, 0 if name == "durations" else self.dictionary.pad())

    def num_tokens(self, index: int) -> int:
        """Places of an item, which ``--max-tokens`` counts."""
        return int(self.sizes[index])

    size = num_tokens

    def num_tokens_vec(self, indices: Any) -> np.ndarray:
        """Places of several items."""
        return self.sizes[indices]

    def ordered_indices(self) -> np.ndarray:
        """Every item once: in corpus order, or for training those of like length at random."""
        if not self.shuffle:
            return np.arange(len(self))
        like = np.floor(np.log(self.sizes) / np.log(ALIKE))
        return np.lexsort((self._random(1).permutation(len(self)), like))

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: Any) -> tuple[np.ndarray, list[int]]:
        """All of them: the models know no greatest length."""
        return indices, []

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[np.ndarray]:
        """Cut ``indices`` into batches of at most ``max_tokens`` places and ``max_sentences`` items (or one item).

        As nothing is padded, there is no reason for a certain multiple of items.
        """
        ends = np.cumsum(self.sizes[indices])
        batches, start, done = [], 0, 0
        while start < len(indices):
            end = len(indices)
            if max_tokens:
                end = max(int(np.searchsorted(ends, done + max_tokens, side="right")), start + 1)
            if max_sentences:
                end = min(end, start + max_sentences)
            batches.append(indices[start:end])
            start, done = end, int(ends[end - 1])
        return batches
