"""The vocabulary of unit-to-codec models (ELLA-V; Song et al. 2024), and the sequences that they learn and continue.

A sequence is all deduplicated units, BOS, then each unit followed by the codec tokens of its time and EOP, then EOS::

    u5 u7 u9 BOS u5 c c c EOP u7 c EOP u9 c c EOP EOS
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speechdlm_ext.errors import InputError

UNK, BOS, EOP, EOS = "UNK", "BOS", "EOP", "EOS"
SPECIAL = (UNK, BOS, EOP, EOS)
# Units and codec tokens may cover times that differ by this much, in seconds.
TOLERANCE = 0.1


class UnitCodecSequence(NamedTuple):
    """A training sequence.

    Attributes:
        ids: ``(N,)``.
        given: which of them a user gives, so that they are no targets, ``(N,)`` bool.
    """

    ids: Tensor
    given: Tensor


class UnitCodecDictionary:
    """Tokens to ids.

    Args:
        token_to_id: ids of the special tokens, of the units' names and of the codec tokens "0" … "M-1".
        codec_types: M.
        unit_rate, codec_rate: units and codec tokens per second.
        skipped: units that are dropped from sequences.

    Raises:
        InputError: a special or a codec token has no id, or two tokens have the same.
    """

    def __init__(
        self,
        token_to_id: Mapping[str, int],
        codec_types: int,
        unit_rate: int = 50,
        codec_rate: int = 40,
        skipped: Iterable[str] = (),
    ) -> None:
        self.token_to_id = dict(token_to_id)
        self.codec_types, self.unit_rate, self.codec_rate = codec_types, unit_rate, codec_rate
        self.skipped = tuple(skipped)
        codec = [str(number) for number in range(codec_types)]
        for token in (*SPECIAL, *codec):
            if token not in self.token_to_id:
                raise InputError(
                    f"the dictionary has no {token}: {len(SPECIAL)} special and {codec_types} codec tokens are expected"
                )
        if sorted(self.token_to_id.values()) != list(range(len(self.token_to_id))):
            raise InputError(f"the dictionary's ids are not 0 to {len(self.token_to_id) - 1}, each once")
        self.codec_ids = torch.tensor([self.token_to_id[token] for token in codec])
        known = {*SPECIAL, *codec}
        self.units = [token for token in self.token_to_id if token not in known]
        self._units = frozenset(self.units)
        self._codec_of_id = {int(i): number for number, i in enumerate(self.codec_ids)}

    @classmethod
    def of_sizes(cls, units: int, codec_types: int, unit_rate: int = 50, codec_rate: int = 40) -> UnitCodecDictionary:
        """The published numbering for units u0 … u(K-1): special tokens, units as sorted strings, codec tokens."""
        names = sorted(f"u{unit}" for unit in range(units))
        tokens = [*SPECIAL, *names, *map(str, range(codec_types))]
        return cls({token: i for i, token in enumerate(tokens)}, codec_types, unit_rate, codec_rate)

    @classmethod
    def of_published(cls, tokenizer: Mapping[str, Any], where: str) -> UnitCodecDictionary:
        """The ``tokenizer`` of a published checkpoint; raises :class:`InputError` where it is not whole."""
        try:
            return cls(
                tokenizer["token_to_id_dict"],
                tokenizer["num_codec_types"],
                tokenizer["phone_token_rate"],
                tokenizer["codec_token_rate"],
                tokenizer["tokens_not_to_sandwich"],
            )
        except KeyError as error:
            raise InputError(
                f"{where}: its tokenizer has no {error.args[0]}: not an acoustic model of DP-SLM"
            ) from None

    def published(self) -> dict[str, Any]:
        """The ``tokenizer`` of a published checkpoint."""
        names = {f"{token}_token": token for token in SPECIAL}
        ids = {f"{token}_id": self.token_to_id[token] for token in SPECIAL}
        return {
            "token_to_id_dict": self.token_to_id,
            "num_phone_types": len(self.units),
            "phone_token_rate": self.unit_rate,
            "num_codec_types": self.codec_types,
            "codec_token_rate": self.codec_rate,
            "tokens_not_to_sandwich": list(self.skipped),
            "num_special_types": len(SPECIAL),
            **names,
            **ids,
        }

    def __len__(self) -> int:
        return len(self.token_to_id)

    def bos(self) -> int:
        """The id between the units and what is made of them."""
        return self.token_to_id[BOS]

    def eos(self) -> int:
        """The id at the end of a training sequence."""
        return self.token_to_id[EOS]

    def pad(self) -> int:
        """The id that fills up batches, one beyond the last row."""
        return len(self)

    def unit_ids(self, units: Iterable[str | int], where: str = "the prompt", strict: bool = True) -> list[int]:
        """Ids of deduplicated units, given as "u5", "5" or 5; adjacent equal ones are merged.

        Raises:
            InputError: one that is not in the dictionary, if ``strict``; else it becomes UNK, as published.
        """
        names = [name for name, _ in groupby(self._names(units))]
        unknown = [name for name in names if name not in self._units]
        if unknown and strict:
            if unknown[0][1:].isdecimal():
                self.check_units(where)
            raise InputError(
                f"{where}: {unknown[0]} is no unit of this model, which has {len(self.units)} "
                f"({self.units[0]} … {self.units[-1]}): use units of its codebook"
            )
        ids = (self.token_to_id[name if name in self._units else UNK] for name in names if name not in self.skipped)
        return list(ids)

    def check_units(self, where: str) -> None:
        """Raise an :class:`InputError` unless the units are u0 … u(K-1); published models of phones have others."""
        other = set(self.units) - {f"u{number}" for number in range(len(self.units))}
        if other:
            raise InputError(
                f"{where}: the model is of phones ({', '.join(sorted(other)[:3])}, …), not of units: take the one of "
                "the units' codebook and penalty"
            )

    def prompt(self, units: Sequence[int]) -> list[int]:
        """Ids of deduplicated units to what a model continues: all of them, BOS, and the first again."""
        return [*units, self.token_to_id[BOS], *units[:1]]

    def codec_counts(self, units: Iterable[str | int]) -> list[int]:
        """How many codec tokens begin during each run of units, one per frame; runs as in :meth:`unit_ids`."""
        counts, frames, taken = [], 0, 0
        for name, run in groupby(self._names(units)):
            frames += len(list(run))
            if name not in self.skipped:
                end = self._tokens_before(frames)
                counts.append(end - taken)
                taken = end
        return counts

    def _names(self, units: Iterable[str | int]) -> Iterable[str]:
        return (f"u{name}" if name.isdecimal() and name not in self._units else name for name in map(str, units))

    def _tokens_before(self, frames: int) -> int:
        """How many codec tokens begin before the end of so many frames: token j begins at j / codec_rate."""
        return -(-frames * self.codec_rate // self.unit_rate)

    def codec_tokens(self, ids: Iterable[int]) -> list[int]:
        """The codec tokens among ids."""
        return [self._codec_of_id[i] for i in ids if i in self._codec_of_id]

    def sequence(
        self, units: Sequence[str | int], codec: Sequence[int], where: str = "the row", published_mask: bool = False
    ) -> UnitCodecSequence:
        """The training sequence of one utterance.

        Args:
            units: one per frame, at ``unit_rate``.
            codec: codec tokens, at ``codec_rate``.
            published_mask: leave the unit with the first id after the special ones a target, as the public code does
                (and UNK, which no loss counts).

        Raises:
            InputError: a token out of range, or times that differ by more than 0.1 s.
        """
        seconds = len(units) / self.unit_rate, len(codec) / self.codec_rate
        if abs(seconds[0] - seconds[1]) > TOLERANCE + 1e-9 or not len(units):
            raise InputError(
                f"{where}: {len(units)} frames of units are {seconds[0]:.2f} s, {len(codec)} codec tokens "
                f"{seconds[1]:.2f} s; they may differ by {TOLERANCE} s"
            )
        outside = [token for token in codec if not 0 <= token < self.codec_types]
        if outside:
            raise InputError(f"{where}: codec token {outside[0]}, this model has 0 to {self.codec_types - 1}")
        runs = [(name, len(list(run))) for name, run in groupby(map(str, units))]
        runs = [run for run in runs if run[0] not in self.skipped]
        names = [self.unit_ids([name], where, strict=False)[0] for name, _ in runs]
        ids, given = [*names, self.token_to_id[BOS]], [True] * (len(names) + 1)
        frames = taken = 0
        for name, (_, count) in zip(names, runs, strict=True):
            frames += count
            ids.append(name)
            given.append(True)
            end = min(self._tokens_before(frames), len(codec))  # a codec token is of the unit during which it begins
            ids += [*self.codec_ids[codec[taken:end]].tolist(), self.token_to_id[EOP]]
            given += [False] * (len(ids) - len(given))
            taken = max(taken, end)
        ids += [*self.codec_ids[codec[taken:]].tolist(), self.token_to_id[EOS]]
        given += [False] * (len(ids) - len(given))
        tokens, mask = torch.tensor(ids), torch.tensor(given)
        if published_mask:
            mask &= (tokens > len(SPECIAL)) | (tokens == self.token_to_id[BOS])
        return UnitCodecSequence(tokens, mask)
