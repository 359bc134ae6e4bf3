"""The task of turning units into the tokens of an audio codec (DP-SLM's ELLA-V)."""

import logging
import os
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq import utils
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import register_task
from omegaconf import II

from speechdlm_ext.data.unit_codec_dataset import UnitCodecDataset
from speechdlm_ext.data.unit_codec_dictionary import UnitCodecDictionary
from speechdlm_ext.errors import InputError
from speechdlm_ext.tasks.plain_task import BaseTask

logger = logging.getLogger(__name__)


@dataclass
class UnitToCodecTaskConfig(FairseqDataclass):
    """Options of the task."""

    data: Optional[str] = field(
        default=None, metadata={"help": "folder with train.jsonl, valid.jsonl, …: rows of units and codec tokens"}
    )
    channel: Optional[str] = field(
        default=None, metadata={"help": "the channel of units, as in unitA (default: the only one of a row)"}
    )
    units: int = field(default=500, metadata={"help": "size K of the codebook"})
    codec_types: int = field(default=4096, metadata={"help": "size of the codec's codebook"})
    unit_rate: int = field(default=50, metadata={"help": "frames of units per second"})
    codec_rate: int = field(default=40, metadata={"help": "codec tokens per second"})
    published_mask: bool = field(
        default=False, metadata={"help": "train on the unit with the first id as well, as the public code does"}
    )
    seed: int = II("common.seed")


@register_task("unit_to_codec_task", dataclass=UnitToCodecTaskConfig)
class UnitToCodecTask(BaseTask):
    """Units to codec tokens."""

    cfg: UnitToCodecTaskConfig

    def __init__(self, cfg: UnitToCodecTaskConfig, dictionary: UnitCodecDictionary) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary

    @classmethod
    def setup_task(cls, cfg: UnitToCodecTaskConfig, **kwargs: Any) -> "UnitToCodecTask":
        """Make the vocabulary; raises :class:`InputError` for sizes or rates below 1."""
        for name in ("units", "codec_types", "unit_rate", "codec_rate"):
            if getattr(cfg, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: 1 or more is expected")
        return cls(cfg, UnitCodecDictionary.of_sizes(cfg.units, cfg.codec_types, cfg.unit_rate, cfg.codec_rate))

    def load_dataset(self, split: str, combine: bool = False, epoch: int = 1, **kwargs: Any) -> None:
        """Open a split; of several data folders, the one for this epoch."""
        if not self.cfg.data:
            raise InputError("no folder with train.jsonl and valid.jsonl was named")
        paths = utils.split_paths(self.cfg.data)
        path = os.path.join(paths[(epoch - 1) % len(paths)], f"{split}.jsonl")
        training = split.startswith("train")
        masked = self.cfg.published_mask
        dataset = UnitCodecDataset(path, self.dictionary, self.cfg.channel, masked, training, self.cfg.seed)
        logger.info("%s: %s tokens in %s utterances", path, f"{int(dataset.sizes.sum()):,}", f"{len(dataset):,}")
        self.datasets[split] = dataset

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep of the task: the vocabulary, in the published form."""
        return {"tokenizer": self.dictionary.published()}

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint has this vocabulary; raises :class:`InputError` where not."""
        found, ours = state_dict.get("tokenizer"), self.dictionary.published()
        for names, fields in (
            ("--unit-rate and --codec-rate", ("phone_token_rate", "codec_token_rate")),
            ("--units and --codec-types", ("num_phone_types", "num_codec_types")),
        ):
            sides = [[one[field] for field in fields] for one in (found or ours, ours)]
            if sides[0] != sides[1]:
                theirs, given = (" and ".join(map(str, side)) for side in sides)
                raise InputError(f"the checkpoint is of {names} {theirs}, {given} were given")
        if found is not None and dict(found)["token_to_id_dict"] != self.dictionary.token_to_id:
            raise InputError("the checkpoint's units have other names: it is a model of phones, or of other units")

    load_state_dict = check_state

    @property
    def source_dictionary(self) -> UnitCodecDictionary:
        """The vocabulary."""
        return self.dictionary

    @property
    def target_dictionary(self) -> UnitCodecDictionary:
        """The vocabulary."""
        return self.dictionary

    def max_positions(self) -> None:
        """There is no greatest number of positions."""
        return None
