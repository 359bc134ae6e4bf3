"""Recordings whose speaker an acoustic model is to keep: their units and codec tokens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch

from speechdlm_ext.codecs.base import Codec
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.recordings import audio_paths, read_manifest, recording_blocks, recording_stamp
from speechdlm_ext.units.pipeline import UnitPipeline


class Voice(NamedTuple):
    """What is read before a row's units.

    Attributes:
        units: one per frame.
        codec: codec tokens of the same time.
        continued: how many of the row's own units these are, if the row goes on where the recording ends.
    """

    units: list[int]
    codec: list[int]
    continued: int = 0


class Voices:
    """One recording for all rows, or for each row the recording of a manifest whose id it has.

    A row that continues a recording (``prompt_units`` of ``scripts/sample_units.py``) goes on from the recording's own
    codec tokens.

    Args:
        path: an audio file, or a manifest (``.jsonl``).
        pipeline: what makes units of it, those that the acoustic model knows.
        codec: what makes codec tokens of it.

    Raises:
        InputError: the file is missing or cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], pipeline: UnitPipeline, codec: Codec) -> None:
        self._pipeline, self._codec = pipeline, codec
        self._by_id = Path(path).suffix == ".jsonl"
        rows = read_manifest(path) if self._by_id else [{"id": "", "audio_filepath": os.path.abspath(path)}]
        self._rows = {row["id"]: row for row in rows}
        self.settings = [recording_stamp(row) for row in rows]
        self._last: tuple[str, list[int], list[int]] | None = None

    def recording(self, name: str) -> list[str]:
        """The audio files of the recording whose speaker a row gets; none where there is no such recording."""
        whose = self._whose(name)
        return [] if whose is None else audio_paths(self._rows[whose])

    def _whose(self, name: str) -> str | None:
        return next((one for one in ("", name, name.rpartition("-s")[0]) if one in self._rows), None)

    def of(self, name: str, row: Mapping[str, Any], units: list[int]) -> Voice:
        """The voice of a row of deduplicated ``units``.

        Raises:
            InputError: there is no recording of its name, or it cannot be read, or has several channels.
        """
        whose = self._whose(name)
        if whose is None:
            raise InputError(f"row {name}: no recording of this id among those of --voice")
        frames, codec = self._tokens(whose)
        prompt = row.get("prompt_units")
        if not self._by_id or not isinstance(prompt, int) or prompt < 1:
            return Voice(frames, codec)
        runs = [(unit, len(list(run))) for unit, run in groupby(frames)][:prompt]
        if [unit for unit, _ in runs] != units[:prompt]:
            raise InputError(
                f"row {name}: its first {prompt} units are not those of its recording among those of --voice: encode "
                "both with the same codebook and penalty"
            )
        frames = frames[: sum(length for _, length in runs)]
        end = -int(-len(frames) * self._codec.frame_rate // self._pipeline.codebook.frame_rate)
        return Voice(frames, codec[:end], prompt)

    def _tokens(self, whose: str) -> tuple[list[int], list[int]]:
        """Units, one per frame, and codec tokens of a recording; those of the last one are kept."""
        if self._last is None or self._last[0] != whose:
            row, encoder = self._rows[whose], self._pipeline.encoder
            wave = torch.cat(list(recording_blocks(row, self._codec.sample_rate)), 1)
            if len(wave) != 1:
                raise InputError(f"{audio_paths(row)[0]} has {len(wave)} channels, a voice is of 1")
            quantizer = self._pipeline.quantizer or self._pipeline.codebook
            sound = torch.cat(list(recording_blocks(row, encoder.sample_rate)), 1)[0]
            units = quantizer.quantize(encoder.encode(sound, encoder.sample_rate)).tolist()
            self._last = whose, units, self._codec.encode(wave.to(self._codec.device))[0, 0].tolist()
        return self._last[1], self._last[2]
