"""Sound from units by a unit HiFi-GAN, with the published checkpoints (dGSLM's, Expresso's, textlesslib's)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from speechdlm_ext.encoders.chunking import to_device
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.config import read_config
from speechdlm_ext.modules.devices import open_device
from speechdlm_ext.modules.unit_generator import UnitGenerator, context_frames
from speechdlm_ext.vocoders.base import check_units
from speechdlm_ext.vocoders.hifigan_files import find_checkpoint, find_config, load_generator, read_names

if TYPE_CHECKING:
    from speechdlm_ext.units.codebook import Codebook

SPEAKERS = (0, 4)  # dGSLM's for its two channels
_SAMPLE_RATE = 16000  # where the configuration does not say, as in the published code
# Sound made at a time, in seconds: of one chunk, and of all chunks of a batch together. Bounds the memory.
_CHUNK_SECONDS = 20.0
# On a CPU one window at a time: what several take together does not fit its caches, and is slower.
_BATCH_SECONDS = {"cpu": 0.0, "cuda": 160.0}


class HiFiGANVocoder:
    """Units → sound by the generator of a unit HiFi-GAN, in chunks that join exactly.

    Every channel of a dialogue has a speaker and a style; the first of those that are given follows after the last.

    Args:
        generator: with its weights.
        config: of the vocoder: ``config.json``.
        speakers: numbers, or names of ``speaker_names``, one for each channel; by default 0 and 4, or 0 and 1 where the
            table ends before 4, or 0 alone.
        styles: the same; by default 0.
        speaker_names: in the order of the table, where they are known.
        style_names: the same.
        chunk_seconds: of sound made at a time, in seconds, without the context that it needs.
        batch_seconds: of all chunks that are made together; by default 160 on a GPU, and one chunk at a time on a CPU.
        digest: of the checkpoint, which tells vocoders apart in ``settings``.

    Raises:
        InputError: a speaker or style is not there, or the vocoder has none to choose from.
    """

    def __init__(
        self,
        generator: UnitGenerator,
        config: Mapping[str, Any],
        speakers: Sequence[str | int] | None = None,
        styles: Sequence[str | int] | None = None,
        speaker_names: Sequence[str] = (),
        style_names: Sequence[str] = (),
        chunk_seconds: float = _CHUNK_SECONDS,
        batch_seconds: float | None = None,
        digest: str = "",
    ) -> None:
        self.generator = generator
        self.sample_rate = int(config.get("sampling_rate", _SAMPLE_RATE))
        self.samples_per_frame = generator.hop
        self.frame_rate = self.sample_rate / generator.hop
        said = config.get("code_hop_size", generator.hop)
        if said != generator.hop:
            raise InputError(f"the vocoder makes {generator.hop} samples per frame, its config.json says {said}")
        spoken = generator.spkr.num_embeddings if generator.multispkr else 0
        usual = [min(speaker, max(spoken - 1, 0)) for speaker in SPEAKERS]
        self.speakers = choose(usual if speakers is None and spoken else speakers, speaker_names, spoken, "speaker")
        there = generator.style.num_embeddings if generator.style is not None else 0
        self.styles = choose([0] if styles is None and there else styles, style_names, there, "style")
        self.context = context_frames(config)
        self.chunk_frames = max(1, round(chunk_seconds * self.frame_rate))
        if batch_seconds is None:
            batch_seconds = _BATCH_SECONDS.get(self._device.type, _BATCH_SECONDS["cuda"])
        self.batch_frames = int(batch_seconds * self.frame_rate)
        self.codebook_fingerprint: str | None = config.get("codebook")
        self._digest = digest

    @classmethod
    def build(
        cls,
        codebook: Codebook | None,
        device: str | None = None,
        vocoder_checkpoint: str | None = None,
        vocoder_config: str | None = None,
        **options: Any,
    ) -> HiFiGANVocoder:
        """The vocoder of a command's options, by default on a GPU where there is one."""
        if vocoder_checkpoint is None:
            raise InputError("--vocoder hifigan needs a checkpoint: --vocoder-checkpoint FILE")
        return cls.load(vocoder_checkpoint, vocoder_config, device=open_device(device), **options)

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike[str],
        config: str | os.PathLike[str] | None = None,
        speakers: Sequence[str | int] | None = None,
        styles: Sequence[str | int] | None = None,
        device: str | torch.device = "cpu",
        chunk_seconds: float = _CHUNK_SECONDS,
        batch_seconds: float | None = None,
    ) -> HiFiGANVocoder:
        """Load a published vocoder.

        Args:
            checkpoint: ``{"generator": weights}``, a folder with such a ``generator.pt``, or a published one by name.
            config: by default the ``config.json`` beside it, or ``<name>_config.json``; ``speakers.txt`` and
                ``styles.txt`` are read from there, too, where they are.
            speakers: as for the class.
            styles: as for the class.
            device: where the sound is made.
            chunk_seconds, batch_seconds: as for the class.

        Raises:
            InputError: a file is missing or damaged, the two do not belong together, or as for the class.
        """
        path = find_checkpoint(checkpoint)
        settings = Path(config) if config is not None else find_config(path)
        options = read_config(settings)
        try:
            generator = load_generator(path, options)
        except InputError as error:
            raise InputError(f"{settings}: {error}" if "the configuration" in str(error) else str(error)) from None
        speaker_names, style_names = (read_names(settings.with_name(f"{kind}.txt")) for kind in ("speakers", "styles"))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        generator.to(device)
        names = (speaker_names, style_names)
        return cls(generator, options, speakers, styles, *names, chunk_seconds, batch_seconds, digest)

    @property
    def num_units(self) -> int:
        """The number of units K that it knows."""
        return int(self.generator.dict.num_embeddings)

    @property
    def predicts_durations(self) -> bool:
        """Whether the vocoder came with a predictor of durations."""
        return self.generator.dur_predictor is not None

    @property
    def settings(self) -> dict[str, Any]:
        """What the sound depends on beside the units."""
        return {"vocoder": "hifigan", "weights": self._digest, "speakers": self.speakers, "styles": self.styles}

    @torch.no_grad()
    def decode(self, units: Tensor) -> Tensor:
        """Sound of a batch of dialogues; a row does not depend on the others, nor on the chunks.

        Args:
            units: (B, T, C), 0 … K-1, one for each frame.

        Returns:
            Sound (B, C, N) with ``N = T · samples_per_frame``, float32, full scale at ±1, on the CPU.

        Raises:
            InputError: a unit is beyond the vocoder's, or there are none.
        """
        check_units(units, self.num_units)
        batch, frames, channels = units.shape
        place = torch.arange(channels).repeat(batch)
        speakers, styles = (_cycle(table, place, self._device) for table in (self.speakers, self.styles))
        rows = to_device(units.transpose(1, 2).reshape(batch * channels, frames), self._device)
        sound = torch.empty(len(rows), frames * self.samples_per_frame, device=self._device)
        for length, pieces in self._windows(len(rows), frames):
            which = [row for row, *_ in pieces]
            window = torch.stack([rows[row, begin : begin + length] for row, begin, *_ in pieces])
            who, how = (None if table is None else torch.stack([table[row] for row in which])
                        for table in (speakers, styles))  # fmt: skip
            made = self.generator.synthesize(window, who, how).float()
            for (row, begin, start, stop), one in zip(pieces, made, strict=True):
                kept = one[(start - begin) * self.samples_per_frame : (stop - begin) * self.samples_per_frame]
                sound[row, start * self.samples_per_frame : stop * self.samples_per_frame] = kept
        return sound.cpu().reshape(batch, channels, -1)

    def _windows(self, rows: int, frames: int) -> Iterator[tuple[int, list[tuple[int, int, int, int]]]]:
        """Batches of windows of equal length, of all rows and all chunks.

        Yields:
            Their length in frames, and for each its row, the frame where it begins, and the frames from start to stop
            that are kept of it; the others are what these depend on.
        """
        before, after = self.context
        by_length: dict[int, list[tuple[int, int, int, int]]] = {}
        for start in range(0, frames, self.chunk_frames):
            stop = min(start + self.chunk_frames, frames)
            begin, end = max(0, start - before), min(frames, stop + after)
            by_length.setdefault(end - begin, []).extend((row, begin, start, stop) for row in range(rows))
        for length, windows in by_length.items():
            together = max(1, self.batch_frames // length)
            for place in range(0, len(windows), together):
                yield length, windows[place : place + together]

    @torch.no_grad()
    def predict_durations(self, units: Tensor) -> Tensor:
        """Frames that each of a row's deduplicated units lasts, by the vocoder's predictor.

        Args:
            units: (T,).

        Returns:
            (T,), 1 or more: ``exp(d) - 1`` rounded, of the predicted ``d`` (Lee et al. 2022).

        Raises:
            InputError: the vocoder has no predictor, or as :meth:`decode`.
        """
        if self.generator.dur_predictor is None:
            raise InputError("this vocoder has no predictor of durations: give them in unitA.durations, …")
        check_units(units, self.num_units, "T,")
        embedded = self.generator.dict(units.to(self._device)[None])
        durations: Tensor = torch.round(torch.exp(self.generator.dur_predictor(embedded)) - 1).long().clamp_min(1)
        return durations[0].cpu()

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.generator.dict.weight.device
        return device


def choose(requested: Sequence[str | int] | None, names: Sequence[str], count: int, kind: str) -> list[int]:
    """Places in a table of speakers or styles.

    Args:
        requested: names, or numbers from 0 up (also as text).
        names: of the table's first rows; a name counts before a number.
        count: rows of the table.
        kind: what to call one in an error.

    Raises:
        InputError: one is not there; the message lists what there is.
    """
    if requested is None:
        return []
    if not count:
        raise InputError(f"this vocoder has no {kind}s to choose from: omit --{kind}s")
    if not requested:
        raise InputError(f"--{kind}s: at least one {kind} is expected")
    places = []
    for one in requested:
        if isinstance(one, str) and one in names:
            places.append(list(names).index(one))
        elif str(one).isdecimal() and int(one) < count:
            places.append(int(one))
        else:
            more = f" and {len(names) - 20} more" if len(names) > 20 else ""
            listed = f": {', '.join(names[:20])}{more}" if names else ""
            raise InputError(f"{kind} {one} is not in the vocoder's table; there is 0 to {count - 1}{listed}")
    return places


def _cycle(table: Sequence[int], place: Tensor, device: torch.device) -> Tensor | None:
    return to_device(torch.tensor(table)[place % len(table)], device) if table else None
