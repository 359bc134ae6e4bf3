"""Utterances of one channel of units, or blocks of them that start anywhere, in padded batches of like length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from speechdlm_ext.data.binarized_corpus import MappedStream, check_durations
from speechdlm_ext.data.token_dataset import TokenDataset
from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.padding import pad_right


class UtteranceDataset(TokenDataset):
    """What a unit language model is given and predicts.

    The stream is ``u … u EOS u … u EOS …``: the units of an utterance, then EOS, which is BOS of the next. An item has
    a part of it as its target, and as its source the same one position earlier, with BOS at the start of an utterance.

    - Whole utterances (``block_size`` is ``None``): one item each, predicted from BOS to EOS.
    - Blocks, as published for DP-SLM: each begins somewhere in an utterance and continues into those that follow, with
      BOS kept between them; its first target, which has next to no context, is not trained on. In each epoch the
      stream is cut anew, at positions that are ``block_size`` apart from a random first one in each document (empty
      lines separate documents), so that an epoch has every unit once and a block can start anywhere.

    Batches are of like length and padded on the right, behind everything that a causal model attends to.
    ``--max-tokens`` counts padding, as everywhere in fairseq; a longer item makes a batch of its own. No item is
    skipped for being long.

    Args:
        units: the units as rows of the vocabulary.
        dictionary: the vocabulary.
        durations: frames of each unit, aligned with them; its ends of lines count 0.
        block_size: targets in a block; ``None`` for whole utterances.
        shuffle: whether batches are composed at random, anew in each epoch.
        seed: of this randomness.

    Attributes:
        sizes: targets of each item, including those not trained on.
        empty: number of utterances without a unit, which are skipped.

    Raises:
        InputError: durations that are not as many as the units, or no units.
    """

    def __init__(
        self,
        units: MappedStream,
        dictionary: UnitDictionary,
        durations: MappedStream | None = None,
        block_size: int | None = None,
        shuffle: bool = False,
        seed: int = 1,
    ) -> None:
        self.units, self.durations, self.dictionary = units, durations, dictionary
        super().__init__(dictionary.pad(), shuffle, seed)
        self.block_size, self.epoch = block_size, 0
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

    def _cut(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Blocks of ``size`` targets from a random first position on, in each document; without those of one target."""
        stream = self.units.stream
        starts_document = np.diff(self.full, prepend=-2) > 1  # an empty line is between them, or it is the first
        first = self.full[starts_document]
        last = np.append(self.full[np.flatnonzero(starts_document)[1:] - 1], self.full[-1])
        begins, ends = stream.ends[first] - stream.sizes[first], stream.ends[last]
        cuts = [begins, ends]
        # A document has its first cut at random in [begin, begin + size), and then every size-th.
        place = begins + self.random(0).integers(1, size + 1, len(begins))
        more = np.maximum(-(-(ends - place) // size), 0)
        offsets = np.arange(more.sum()) - np.repeat(np.cumsum(more) - more, more)
        cuts.append(np.repeat(place, more) + offsets * size)
        edges = np.unique(np.concatenate(cuts))
        starts, stops = edges[:-1], edges[1:]
        # Between documents there are empty lines; what begins at a document's end is not in one.
        inside = ~np.isin(starts, ends) & (stops - starts > 1)
        return starts[inside], stops[inside]

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
            lengths = self.durations.read(start, end)
            frames = int(lengths[masked:].sum())
            first = 0 if at_start else int(self.durations.read(start - 1, start)[0])
            item["durations"] = torch.from_numpy(np.concatenate([[first], lengths[:-1]]))
        target[:masked] = self.dictionary.pad()
        return {**item, "target": torch.from_numpy(target), "frames": frames}

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """As :meth:`TokenDataset.collater`, and more.

        Returns:
            ``durations`` ``(B, T)`` of the units in ``src_tokens``, in frames, 0 for BOS and padding. Numbers:
            ``units`` that are trained on without EOS, ``timed`` units with a duration, and ``frames`` that the targets
            last (the units, without durations).
        """
        batch = super().collater(samples)
        if not batch:
            return batch
        target = batch["target"]
        batch["units"] = int((target.ne(self.pad) & target.ne(self.dictionary.eos())).sum())
        batch["frames"] = sum(sample["frames"] for sample in samples)
        if self.durations is not None:
            longest = sorted(samples, key=lambda sample: (-len(sample["target"]), sample["id"]))
            batch["durations"] = pad_right([sample["durations"] for sample in longest], 0)
            batch["timed"] = int(batch["durations"].gt(0).sum())
        return batch
