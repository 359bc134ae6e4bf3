"""Rows of many units to codec tokens, in windows: the memory is that of one window, however long a row is.

A window begins at a unit, and reads the last units of the one before with their codec tokens, as it reads a voice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from speechdlm_ext.data.unit_codec_dictionary import EOP, UnitCodecDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.unit_to_codec import CodecHypothesis, CodecOptions, CodecPrompt, generate_codec


@dataclass(frozen=True)
class Windows:
    """How long rows are cut.

    Attributes:
        units: of a window; a row that has no more is decoded at once, as the public code does.
        overlap: units before a window that it reads again, with their codec tokens.

    Raises:
        InputError: no units, or a negative overlap.
    """

    units: int = 1000
    overlap: int = 50

    def __post_init__(self) -> None:
        if self.units < 1 or self.overlap < 0:
            raise InputError(f"windows of {self.units} units, overlap {self.overlap}: 1 and 0 or more are expected")


WINDOWS = Windows()


@dataclass
class _Row:
    """A row and how far it is."""

    prompt: CodecPrompt
    place: int
    left: int
    answer: CodecHypothesis = field(default_factory=CodecHypothesis)

    @property
    def going(self) -> bool:
        return self.answer.finished and self.place < len(self.prompt.units)

    def part(self, windows: Windows, dictionary: UnitCodecDictionary) -> CodecPrompt:
        """What the next window is decoded from."""
        prompt, first = self.prompt, self.prompt.spoken
        begin = max(first, self.place - windows.overlap)
        end = min(self.place + windows.units, len(prompt.units))
        read = list(prompt.voice)
        for unit, codec in zip(
            prompt.units[begin : self.place], self.answer.codec_per_unit[begin - first :], strict=True
        ):
            read += [unit, *dictionary.codec_ids[codec].tolist(), dictionary.token_to_id[EOP]]
        return CodecPrompt(
            [*prompt.units[:first], *prompt.units[begin:end]],
            read,
            first + self.place - begin,
            None if prompt.counts is None else prompt.counts[self.place - first : end - first],
            self.left - bool(self.answer.ids),  # the unit that the window begins with counts, as it does within one
        )

    def take(self, found: CodecHypothesis, windows: Windows) -> None:
        """Add what a window gave."""
        between = [self.prompt.units[self.place]] if self.answer.ids and self.left else []
        self.answer.ids += between + found.ids
        self.answer.codec += found.codec
        self.answer.codec_per_unit += found.codec_per_unit
        self.answer.finished = found.finished
        self.left -= len(between) + len(found.ids)
        self.place = min(self.place + windows.units, len(self.prompt.units))


def generate_windows(
    decoder: Any,
    dictionary: UnitCodecDictionary,
    prompts: Sequence[CodecPrompt],
    options: CodecOptions,
    uniforms: Sequence[Callable[[int], Callable[[int], np.ndarray]]],
    windows: Windows,
    progress: Callable[[int], object] = lambda tokens: None,
) -> list[CodecHypothesis]:
    """As :func:`generate_codec`, which decodes the windows, those of one number of all rows together.

    Args:
        uniforms: for each row, from the number of a window to what draws its random numbers.

    Raises:
        InputError: as :func:`generate_codec`.
    """
    rows = [_Row(prompt, prompt.spoken, options.max_tokens) for prompt in prompts]
    for number in count():
        going = [i for i, row in enumerate(rows) if row.going]
        if not going:
            return [row.answer for row in rows]
        parts = [rows[i].part(windows, dictionary) for i in going]
        draws = [uniforms[i](number) for i in going]
        found = generate_codec(decoder, dictionary, parts, options, draws, progress)
        for i, one in zip(going, found, strict=True):
            rows[i].take(one, windows)
    raise AssertionError("unreachable")
