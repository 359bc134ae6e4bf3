"""Crops of units with the sound that they were made from, to train vocoders on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from speechdlm_ext.data.crops import read_crop
from speechdlm_ext.data.token_dataset import SizedDataset
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import audio_info
from speechdlm_ext.io.recordings import audio_paths
from speechdlm_ext.units.files import expand_durations, row_channels, row_units


@dataclass(frozen=True)
class SpokenUnits:
    """One channel of one row of a unit file, and where its sound is.

    Attributes:
        units: (T,), one a frame.
        path: audio file.
        channel: of the file.
        file_rate: sample rate of the file, in Hz.
        start: where the first unit begins, in seconds.
        speaker: number of the speaker.
    """

    units: np.ndarray
    path: str
    channel: int
    file_rate: int
    start: float
    speaker: int


def match_rows(
    rows: Sequence[Mapping[str, Any]],
    recordings: Mapping[str, Mapping[str, Any]],
    speakers: Mapping[str, Sequence[int]],
    units: int,
) -> list[SpokenUnits]:
    """Every channel of the rows of a unit file, with its recording.

    Args:
        rows: of a unit file; segments name their ``recording`` and ``start``, other rows are whole recordings.
            Copies at other speeds (``copy_of``) are skipped.
        recordings: rows of the manifest by id.
        speakers: numbers of the speakers of a recording's channels, by id; 0 where nothing is said.
        units: how many there are.

    Raises:
        InputError: a recording is missing or has other channels, or a unit is beyond the codebook.
    """
    matched = []
    for row in rows:
        if "copy_of" in row:
            continue
        name = row.get("recording", row.get("audio"))
        if name not in recordings:
            raise InputError(f"row {row.get('audio', '?')}: the manifest has no recording {name}")
        channels = row_channels(row)
        paths = audio_paths(recordings[name])
        infos = [audio_info(path) for path in dict.fromkeys(paths)]
        places = [(info.path, c, info.sample_rate) for info in infos for c in range(info.channels)]
        who = speakers.get(name, [0] * len(channels))
        if not len(places) == len(channels) == len(who):
            raise InputError(f"row {row.get('audio', '?')} has {len(channels)} channels, its recording {len(places)}")
        for place, labels, speaker in zip(places, row_units(expand_durations(row), channels), who, strict=True):
            if max(labels) >= units:
                raise InputError(f"row {row.get('audio', '?')}: unit {max(labels)}; there is 0 to {units - 1}")
            path, channel, rate = place
            start = float(row.get("start", 0))
            matched.append(SpokenUnits(np.array(labels), str(path), channel, rate, start, speaker))
    return matched


class UnitWaveDataset(SizedDataset):
    """Crops of equal length; in training, at a place drawn anew in every epoch.

    A channel of a row is there once for every crop that fits into it, so that an epoch covers about all there is.

    Args:
        items: what to crop from; those shorter than a crop are skipped.
        crop_frames: length of a crop, in frames.
        hop: samples per frame.
        sample_rate: of the sound, in Hz.
        shuffle: whether crops are drawn and mixed (training), or lie side by side in order.
        seed: of the drawing.

    Raises:
        InputError: no item is as long as a crop.
    """

    can_reuse_epoch_itr_across_epochs = False  # workers that live on would not notice a new epoch

    def __init__(
        self,
        items: Sequence[SpokenUnits],
        crop_frames: int,
        hop: int,
        sample_rate: int,
        shuffle: bool = False,
        seed: int = 1,
    ) -> None:
        self.items = list(items)
        self.crop_frames, self.hop, self.sample_rate = crop_frames, hop, sample_rate
        self.shuffle, self.seed = shuffle, seed
        # (item, number of the crop in it)
        self.places = [(i, k) for i, item in enumerate(self.items) for k in range(len(item.units) // crop_frames)]
        if not self.places:
            longest = max((len(item.units) for item in self.items), default=0)
            raise InputError(
                f"the longest row has {longest} frames, a crop {crop_frames}: take a shorter --crop-frames"
            )
        self.sizes = np.full(len(self.places), crop_frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, place = self.places[index]
        item = self.items[number]
        first = place * self.crop_frames
        if self.shuffle:
            drawn = np.random.default_rng((self.seed, self.epoch, index))
            first = int(drawn.integers(len(item.units) - self.crop_frames + 1))
        begin = round(item.start * self.sample_rate) + first * self.hop
        count = self.crop_frames * self.hop
        return {
            "id": index,
            "units": torch.from_numpy(item.units[first : first + self.crop_frames]),
            "wave": read_crop(item.path, item.channel, begin, count, self.sample_rate, item.file_rate),
            "speaker": item.speaker,
        }

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch: units (B, T), wave (B, N), speakers (B,)."""
        if not samples:
            return {}
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": len(samples) * self.crop_frames,
            "net_input": {
                "units": torch.stack([sample["units"] for sample in samples]),
                "wave": torch.stack([sample["wave"] for sample in samples]),
                "speakers": torch.tensor([sample["speaker"] for sample in samples]),
            },
        }

    def ordered_indices(self) -> np.ndarray:
        """In random order (of numpy's generator, which fairseq seeds) for training."""
        return np.random.permutation(len(self)) if self.shuffle else np.arange(len(self))
