"""Utterances of one channel of units, or blocks of them that start anywhere, in padded batches of like length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset, data_utils

from speechdlm_ext.data.binarized_corpus import MappedStream, check_durations
from speechdlm_ext.data.dialogue_dataset import pad_right
from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.errors import InputError

# Training utterances whose lengths differ by less than this factor are batched at random.
LENGTH_BUCKET = 1.1


class UtteranceDataset(FairseqDataset):
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
        self.block_size, self.shuffle, self.seed, self.epoch = block_size, shuffle, seed, 0
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
        """Blocks of ``size`` targets from a random first position on, in each document; without those of one target."""
        stream = self.units.stream
        starts_document = np.diff(self.full, prepend=-2) > 1  # an empty line is between them, or it is the first
        first = self.full[starts_document]
        last = np.append(self.full[np.flatnonzero(starts_document)[1:] - 1], self.full[-1])
        begins, ends = stream.ends[first] - stream.sizes[first], stream.ends[last]
        cuts = [begins, ends]
        # A document has its first cut at random in [begin, begin + size), and then every size-th.
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
            lengths = self.durations.read(start, end)
            frames = int(lengths[masked:].sum())
            first = 0 if at_start else int(self.durations.read(start - 1, start)[0])
            item["durations"] = torch.from_numpy(np.concatenate([[first], lengths[:-1]]))
        target[:masked] = self.dictionary.pad()
        return {**item, "target": torch.from_numpy(target), "frames": frames}

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Pad items to one batch, the longest first; what a training step counts is counted here, on the CPU.

        Returns:
            ``net_input``: ``src_tokens`` ``(B, T)``, ``src_lengths`` ``(B,)`` and ``token_index`` ``(N,)``, which of
            the B·T positions are not padding. ``target`` ``(B, T)``, padding where nothing is trained. ``durations``
            ``(B, T)`` of the units in ``src_tokens``, in frames, 0 for BOS and padding. Numbers: ``ntokens`` targets
            that are trained on, ``units`` of them without EOS, ``timed`` units with a duration, and ``frames`` that
            the targets last (the units, without durations).
        """
        if not samples:
            return {}
        samples = sorted(samples, key=lambda sample: (-len(sample["target"]), sample["id"]))
        pad, eos = self.dictionary.pad(), self.dictionary.eos()
        tokens = pad_right([sample["source"] for sample in samples], pad)
        target = pad_right([sample["target"] for sample in samples], pad)
        trained = target.ne(pad)
        batch = {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": int(trained.sum()),
            "units": int((trained & target.ne(eos)).sum()),
            "frames": sum(sample["frames"] for sample in samples),
            "net_input": {
                "src_tokens": tokens,
                "src_lengths": torch.tensor([len(sample["source"]) for sample in samples]),
                "token_index": tokens.ne(pad).flatten().nonzero().squeeze(1),
            },
            "target": target,
        }
        if self.durations is not None:
            batch["durations"] = pad_right([sample["durations"] for sample in samples], 0)
            batch["timed"] = int(batch["durations"].gt(0).sum())
        return batch

    def num_tokens(self, index: int) -> int:
        """Positions of an item, which ``--max-tokens`` counts."""
        return int(self.sizes[index])

    size = num_tokens

    def num_tokens_vec(self, indices: Any) -> np.ndarray:
        """Positions of several items."""
        return self.sizes[indices]

    def ordered_indices(self) -> np.ndarray:
        """Every item once: by length, or for training those of like length at random."""
        if not self.shuffle:
            return np.argsort(self.sizes, kind="stable")
        bucket = np.floor(np.log(self.sizes) / np.log(LENGTH_BUCKET))
        return np.lexsort((self._random(1).permutation(len(self)), bucket))

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: Any) -> tuple[np.ndarray, list[int]]:
        """All of them: the models have no greatest length."""
        return indices, []

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[np.ndarray]:
        """Cut ``indices`` into batches of at most ``max_tokens`` positions and ``max_sentences`` items (or one item).

        The number of items is no multiple of anything: that would skip no work here, and makes batches smaller.
        """
        sizes = self.sizes[indices]
        if max_tokens:  # a longer item has a batch of its own
            sizes = np.minimum(sizes, max_tokens)
        batches: list[np.ndarray] = data_utils.batch_by_size(
            indices, None, sizes, max_tokens or None, max_sentences or None
        )
        return batches
