"""The task of turning units into sound: crops of recordings with the units that they were encoded as."""

import logging
import os
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq import utils
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import register_task
from omegaconf import II

from speechdlm_ext.data.unit_wave_dataset import UnitWaveDataset, match_rows
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.recordings import audio_paths, read_manifest
from speechdlm_ext.tasks.plain_task import PlainTask
from speechdlm_ext.units.codebook_files import load_codebook
from speechdlm_ext.units.files import read_unit_file

logger = logging.getLogger(__name__)


@dataclass
class UnitHiFiGANTaskConfig(FairseqDataclass):
    """Where units and recordings are, and how they are cropped."""

    data: Optional[str] = field(
        default=None,
        metadata={"help": "folder with train.jsonl and valid.jsonl, as data_prep/split_units.py writes it"},
    )
    manifest: Optional[str] = field(default=None, metadata={"help": "the recordings that the units were made from"})
    codebook: Optional[str] = field(default=None, metadata={"help": "that the units were made with"})
    num_units: Optional[int] = field(default=None, metadata={"help": "number of units, where --codebook is not given"})
    frame_rate: float = field(default=50.0, metadata={"help": "of the units in Hz, where --codebook is not given"})
    sample_rate: int = field(default=16000, metadata={"help": "of the sound to make, in Hz"})
    crop_frames: int = field(default=28, metadata={"help": "length of the crops, in frames"})
    speaker_field: Optional[str] = field(
        default=None,
        metadata={"help": "the manifest's field that names the speaker, or a list of one for each channel"},
    )
    seed: int = II("common.seed")


@register_task("unit_hifigan_task", dataclass=UnitHiFiGANTaskConfig)
class UnitHiFiGANTask(PlainTask):
    """Units and sound side by side (Polyak et al. 2021).

    Attributes:
        units: the number of units K.
        frame_rate: of the units, in Hz.
        speakers: names of the speakers in order; none without ``--speaker-field``.
    """

    cfg: UnitHiFiGANTaskConfig

    def __init__(self, cfg: UnitHiFiGANTaskConfig, units: int, frame_rate: float, codebook: Optional[str]) -> None:
        super().__init__(cfg)
        if not cfg.manifest:
            raise InputError("--manifest is needed: the recordings that the units were made from")
        if cfg.crop_frames < 1 or cfg.sample_rate < 1:
            raise InputError(f"--crop-frames {cfg.crop_frames}, --sample-rate {cfg.sample_rate}: 1 or more is expected")
        self.units, self.frame_rate, self.codebook = units, frame_rate, codebook
        self.recordings = {row["id"]: row for row in read_manifest(cfg.manifest, excerpts=False)}
        names = {}
        if cfg.speaker_field:
            names = {name: _speakers(row, cfg.speaker_field) for name, row in self.recordings.items()}
        self.speakers = sorted({speaker for one in names.values() for speaker in one})
        number = {speaker: place for place, speaker in enumerate(self.speakers)}
        self._numbers = {name: [number[speaker] for speaker in one] for name, one in names.items()}
        # Kept in checkpoints, for what is made of them.
        self.state.merge_state_dict({"codebook": codebook, "speakers": self.speakers})

    @classmethod
    def setup_task(cls, cfg: UnitHiFiGANTaskConfig, **kwargs: Any) -> "UnitHiFiGANTask":
        """Read codebook and manifest; raises :class:`InputError` where neither says how many units there are."""
        if not cfg.data:
            raise InputError("no folder with train.jsonl and valid.jsonl was named")
        if cfg.codebook:
            codebook = load_codebook(cfg.codebook)
            return cls(cfg, codebook.num_units, codebook.frame_rate or cfg.frame_rate, codebook.fingerprint)
        if not cfg.num_units or cfg.num_units < 1:
            raise InputError("--codebook or --num-units is needed: how many units are there?")
        return cls(cfg, cfg.num_units, cfg.frame_rate, None)

    def load_dataset(self, split: str, combine: bool = False, epoch: int = 1, **kwargs: Any) -> None:
        """Open a split: ``<split>.jsonl`` of the data folder.

        Raises:
            InputError: rows are of another codebook or frame rate, or as :func:`match_rows`.
        """
        path = os.path.join(utils.split_paths(self.cfg.data)[0], f"{split}.jsonl")
        rows = read_unit_file(path)
        for row in rows:
            for name, ours in (("codebook", self.codebook), ("frame_rate", self.frame_rate)):
                if ours is not None and row.get(name, ours) != ours:
                    raise InputError(f"{path}: row {row.get('audio')} has {name} {row[name]}, expected is {ours}")
        items = match_rows(rows, self.recordings, self._numbers, self.units)
        hop = round(self.cfg.sample_rate / self.frame_rate)
        training = split.startswith("train")
        dataset = UnitWaveDataset(items, self.cfg.crop_frames, hop, self.cfg.sample_rate, training, self.cfg.seed)
        minutes = sum(len(item.units) for item in items) / self.frame_rate / 60
        logger.info("%s: %.1f min of %d channels, %d crops", split, minutes, len(items), len(dataset))
        self.datasets[split] = dataset


def _speakers(row: dict[str, Any], field_name: str) -> list[str]:
    """The speaker of each channel of a recording."""
    channels = int(row.get("channels") or len(audio_paths(row)))
    found = row.get(field_name)
    names = [found] * channels if isinstance(found, (str, int)) else found
    if not isinstance(names, list) or len(names) != channels:
        raise InputError(
            f"recording {row['id']}: {field_name} is {found!r}; a speaker's name, or a list of one for each of the "
            f"{channels} channels is expected"
        )
    return [str(name) for name in names]
