"""Data sets for fairseq; of token sequences for causal language models: batches of like length, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset, data_utils

from speechdlm_ext.modules.padding import pad_right

# Training sequences whose lengths differ by less than this factor are batched at random.
LENGTH_BUCKET = 1.1


class SizedDataset(FairseqDataset):
    """Items whose sizes, which ``--max-tokens`` counts, are known before they are read.

    Attributes:
        sizes: of the items, ``(len(self),)``.
        epoch: number of the epoch, from 1.
    """

    sizes: np.ndarray
    epoch = 1

    def __len__(self) -> int:
        return len(self.sizes)

    def num_tokens(self, index: int) -> int:
        """The size of an item."""
        return int(self.sizes[index])

    size = num_tokens

    def num_tokens_vec(self, indices: Any) -> np.ndarray:
        """The sizes of several items."""
        return self.sizes[indices]

    def set_epoch(self, epoch: int) -> None:
        """Draw what is random anew (called by fairseq)."""
        self.epoch = epoch


class TokenDataset(SizedDataset):
    """Items with a ``source`` and a ``target`` ``(T,)``, which has the padding id where nothing is trained.

    ``--max-tokens`` counts padding, as everywhere in fairseq; a longer item makes a batch of its own. No item is
    skipped for being long.

    Args:
        pad: the padding id.
        shuffle: whether batches are composed at random, anew in each epoch.
        seed: of this randomness.

    Attributes:
        sizes: positions of each item, ``(len(self),)``.
    """

    def __init__(self, pad: int, shuffle: bool = False, seed: int = 1) -> None:
        self.pad, self.shuffle, self.seed = pad, shuffle, seed

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Whether all epochs have the same batches (asked by fairseq)."""
        return not self.shuffle

    def random(self, purpose: int) -> np.random.Generator:
        """Random numbers of this epoch, others for each purpose."""
        return np.random.default_rng((self.seed, self.epoch, purpose))

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Pad items to one batch, the longest first; what a training step counts is counted here, on the CPU.

        Returns:
            ``net_input``: ``src_tokens`` ``(B, T)``, ``src_lengths`` ``(B,)`` and ``token_index`` ``(N,)``, which of
            the B·T positions are not padding. ``target`` ``(B, T)``. ``ntokens``: targets that are trained on.
        """
        if not samples:
            return {}
        samples = sorted(samples, key=lambda sample: (-len(sample["target"]), sample["id"]))
        tokens = pad_right([sample["source"] for sample in samples], self.pad)
        target = pad_right([sample["target"] for sample in samples], self.pad)
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": int(target.ne(self.pad).sum()),
            "net_input": {
                "src_tokens": tokens,
                "src_lengths": torch.tensor([len(sample["source"]) for sample in samples]),
                "token_index": tokens.ne(self.pad).flatten().nonzero().squeeze(1),
            },
            "target": target,
        }

    def ordered_indices(self) -> np.ndarray:
        """Every item once: by length, or for training those of like length at random."""
        if not self.shuffle:
            return np.argsort(self.sizes, kind="stable")
        bucket = np.floor(np.log(self.sizes) / np.log(LENGTH_BUCKET))
        return np.lexsort((self.random(1).permutation(len(self)), bucket))

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
