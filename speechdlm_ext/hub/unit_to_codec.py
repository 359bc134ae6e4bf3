"""Units to codec tokens from Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from speechdlm_ext.checkpoints import ellav
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.codec_windows import WINDOWS, Windows, generate_windows
from speechdlm_ext.generation.unit_to_codec import CodecHypothesis, CodecOptions, CodecPrompt
from speechdlm_ext.models import unit_to_codec

# Units, one per frame, and codec tokens of a recording.
Voice = tuple[Sequence["str | int"], Sequence[int]]


class UnitToCodec(nn.Module):
    """A trained acoustic model: it adds a speaker to units (DP-SLM's ELLA-V).

    ::

        model = UnitToCodec.from_pretrained("ellav-k500-l4500")
        codes, finished = model.generate(prompts=[["u5", "u7", "u9"]], max_tokens=1000, top_p=0.8)
    """

    def __init__(self, model: unit_to_codec.UnitToCodec) -> None:
        super().__init__()
        self.model = model
        self.dictionary = model.dictionary
        self.eval()

    @classmethod
    def from_pretrained(cls, path_or_name: str | os.PathLike[str], trust: bool | None = None) -> UnitToCodec:
        """Load a published file, a checkpoint of fairseq-train, or a published model by name.

        Raises:
            InputError: as :func:`.ellav.read_unit_to_codec`.
        """
        return cls(ellav.read_unit_to_codec(ellav.locate_unit_to_codec(path_or_name), trust))

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the published form."""
        ellav.write_unit_to_codec(self.model, Path(path), overwrite)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def generate(
        self,
        prompts: Sequence[Sequence[str | int]],
        max_tokens: int = 1000,
        max_codec_tokens_per_phone: int = 10,
        temperature: float = 1.0,
        top_p: float = 0.8,
        chunk_size: int | None = None,
        progress: bool | Callable[[int], object] = False,
        *,
        published_limits: bool = False,
        seed: int = 1,
        voice: Voice | None = None,
        windows: Windows = WINDOWS,
    ) -> tuple[list[Tensor], list[bool]]:
        """Codec tokens for rows of units; the arguments are those of the public code, and

        Args:
            prompts: deduplicated units of each row, "u5", "5" or 5; equal neighbours are merged.
            progress: whether to show the number of steps, or what is called with those done since the last call.
            seed: a row's samples depend on it and on the row's number alone.
            voice: units, one per frame, and codec tokens of a recording whose speaker is to be kept.
            windows: in which rows of more units are decoded.

        Returns:
            Codec tokens ``(L,)`` of each row, and whether it ended before ``max_tokens``.

        Raises:
            InputError: a unit or an option out of range, or a voice whose units and codec tokens differ in time.
        """
        options = CodecOptions(max_tokens, max_codec_tokens_per_phone, temperature, top_p, published_limits, chunk_size)
        with tqdm(unit=" tokens", desc="codec tokens", disable=progress is not True) as bar:
            report = progress if callable(progress) else bar.update
            seeds = [(seed, row, 0) for row in range(len(prompts))]
            found = self.hypotheses(prompts, options, seeds, [voice] * len(prompts), windows, report)
        return [torch.tensor(row.codec, dtype=torch.long) for row in found], [row.finished for row in found]

    def hypotheses(
        self,
        prompts: Sequence[Sequence[str | int]],
        options: CodecOptions,
        seeds: Sequence[tuple[int, ...]],
        voices: Sequence[Voice | None],
        windows: Windows = WINDOWS,
        progress: Callable[[int], object] = lambda tokens: None,
        framed: Sequence[bool] | None = None,
        where: Sequence[str] | None = None,
    ) -> list[CodecHypothesis]:
        """The same with the codec tokens of each unit; see :meth:`generate`.

        Args:
            seeds: of each row's random numbers.
            voices: of each row.
            framed: of each row, whether it has one unit per frame, so that each gets the codec tokens of its frames.
            where: names of the rows, for errors.
        """
        if not all(0 <= seed < 2**64 for row in seeds for seed in row):
            raise InputError(f"--seed {seeds[0][0]}: 0 to 2^64 - 1 is expected")
        asked, draws = [], []
        names = where or [f"prompt {number}" for number in range(1, len(prompts) + 1)]
        lasting = framed or [False] * len(prompts)
        for units, voice, seed, name, keep in zip(prompts, voices, seeds, names, lasting, strict=True):
            spoken, heard = self._voice(voice)
            row = [*spoken, *self.dictionary.unit_ids(units, name)]
            counts = self.dictionary.codec_counts(units) if keep else None
            asked.append(CodecPrompt(row, heard, len(spoken), counts))
            draws.append(partial(_uniforms, seed))
        return generate_windows(self.model.decoder, self.dictionary, asked, options, draws, windows, progress)

    def _voice(self, voice: Voice | None) -> tuple[list[int], list[int]]:
        """The ids of a voice's units, and of what they sounded like."""
        if voice is None:
            return [], []
        units = self.dictionary.unit_ids(voice[0], "the voice")
        ids = self.dictionary.sequence([str(unit) for unit in voice[0]], voice[1], "the voice").ids.tolist()
        return units, ids[len(units) + 1 : -1]  # without the units before BOS, BOS and EOS


def _uniforms(seed: tuple[int, ...], window: int) -> Callable[[int], np.ndarray]:
    """What draws the random numbers of a row in a window."""
    return np.random.default_rng(np.random.SeedSequence((*seed, *([window] if window else ())))).random
