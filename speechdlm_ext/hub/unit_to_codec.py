"""Units to codec tokens from Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from speechdlm_ext.checkpoints import ellav
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.unit_to_codec import CodecHypothesis, CodecOptions, CodecPrompt, generate_codec
from speechdlm_ext.models import unit_to_codec


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
        published_limits: bool = False,
        seed: int = 1,
        voice: tuple[Sequence[str | int], Sequence[int]] | None = None,
        progress: Callable[[int], object] = lambda tokens: None,
    ) -> tuple[list[Tensor], list[bool]]:
        """Codec tokens for rows of units; the arguments are those of the public code, and

        Args:
            prompts: deduplicated units of each row, "u5", "5" or 5; equal neighbours are merged.
            seed: a row's samples depend on it and on the row's number alone.
            voice: units, one per frame, and codec tokens of a recording whose speaker is to be kept.
            progress: called with the number of steps done since the last call.

        Returns:
            Codec tokens ``(L,)`` of each row, and whether it ended before ``max_tokens``.

        Raises:
            InputError: a unit or an option out of range, or a voice whose units and codec tokens differ in time.
        """
        options = CodecOptions(max_tokens, max_codec_tokens_per_phone, temperature, top_p, published_limits)
        found = self.hypotheses(prompts, options, seed, voice, progress)
        return [torch.tensor(row.codec, dtype=torch.long) for row in found], [row.finished for row in found]

    def hypotheses(
        self,
        prompts: Sequence[Sequence[str | int]],
        options: CodecOptions,
        seed: int = 1,
        voice: tuple[Sequence[str | int], Sequence[int]] | None = None,
        progress: Callable[[int], object] = lambda tokens: None,
    ) -> list[CodecHypothesis]:
        """The same with the codec tokens of each unit; see :meth:`generate`."""
        if not 0 <= seed < 2**64:
            raise InputError(f"--seed {seed}: 0 to 2^64 - 1 is expected")
        rows = [self.dictionary.unit_ids(units, f"prompt {number}") for number, units in enumerate(prompts, 1)]
        spoken, heard = self._voice(voice)
        asked = [CodecPrompt([*spoken, *row], heard, len(spoken)) for row in rows]
        draws = [np.random.default_rng(np.random.SeedSequence((seed, row, 0))).random for row in range(len(rows))]
        return generate_codec(self.model.decoder, self.dictionary, asked, options, draws, progress)

    def _voice(self, voice: tuple[Sequence[str | int], Sequence[int]] | None) -> tuple[list[int], list[int]]:
        """The ids of a voice's units, and of what they sounded like."""
        if voice is None:
            return [], []
        units = self.dictionary.unit_ids(voice[0], "the voice")
        ids = self.dictionary.sequence([str(unit) for unit in voice[0]], voice[1], "the voice").ids.tolist()
        return units, ids[len(units) + 1 : -1]  # without the units before BOS, BOS and EOS
