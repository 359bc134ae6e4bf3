"""The task of duplex speech-to-speech models: conversations of a user and an agent, with what the agent says."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import register_task
from omegaconf import II

from speechdlm_ext.data.data_module import find_section, read_section_cuts
from speechdlm_ext.data.duplex_cuts import DuplexCut, read_cuts
from speechdlm_ext.data.duplex_dataset import DuplexCuts, DuplexS2SDataset
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.config import read_config
from speechdlm_ext.models.duplex_s2s import TASK_STATE, DuplexParts
from speechdlm_ext.modules.duplex_frames import ChannelIds
from speechdlm_ext.tasks.plain_task import PlainTask

logger = logging.getLogger(__name__)


@dataclass
class DuplexS2STaskConfig(FairseqDataclass):
    """Options of the task."""

    data: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder with train.jsonl, valid.jsonl, … (conversations or cuts of lhotse), or SHAR folders train, "
            "valid, …; or a YAML file with train_ds and validation_ds, whose data sets are named by --valid-subset"
        },
    )
    model_config: Optional[str] = field(
        default=None,
        metadata={"help": "YAML or JSON file of the model, as published: pretrained_llm, pretrained_audio_codec, …"},
    )
    input_roles: str = field(default="user,User", metadata={"help": "speakers of the user's side, separated by commas"})
    output_roles: str = field(
        default="agent,Assistant", metadata={"help": "speakers whose turns are learnt, separated by commas"}
    )
    text_overflow: ChoiceEnum(["published", "turn"]) = field(  # type: ignore[valid-type]
        default="published",
        metadata={
            "help": "text for which a turn has no frames: published writes it on behind the turn's EOS, turn leaves it "
            "out; how much is lost is logged"
        },
    )
    seed: int = II("common.seed")


@register_task("duplex_s2s_task", dataclass=DuplexS2STaskConfig)
class DuplexS2STask(PlainTask):
    """Duplex speech-to-speech."""

    cfg: DuplexS2STaskConfig

    def __init__(self, cfg: DuplexS2STaskConfig, parts: DuplexParts) -> None:
        super().__init__(cfg)
        self.parts = parts
        frame_length = 1 / parts.perception.frame_rate
        self.maker = DuplexS2SDataset(
            parts.tokenizer,
            frame_length,
            parts.perception.sample_rate,
            parts.codec.sample_rate,
            cfg.input_roles.split(","),
            cfg.output_roles.split(","),
            cut_at_turn_end=str(cfg.text_overflow) == "turn",
            codec=parts.codec,
        )

    @classmethod
    def setup_task(cls, cfg: DuplexS2STaskConfig, **kwargs: Any) -> "DuplexS2STask":
        """Load tokenizer, perception and codec; raises :class:`InputError` where the configuration is not whole."""
        if not cfg.model_config:
            raise InputError(
                "--model-config FILE is missing: the configuration of the model, see docs/duplex_models.md"
            )
        path = Path(cfg.model_config)
        return cls(cfg, DuplexParts.of(read_config(path, "model"), path.parent))

    @property
    def ids(self) -> ChannelIds:
        """Ids of control."""
        return self.parts.ids

    def load_dataset(self, split: str, combine: bool = False, epoch: int = 1, **kwargs: Any) -> None:
        """Open a split; of several data folders, the one for this epoch."""
        if not self.cfg.data:
            raise InputError("no folder with train.jsonl and valid.jsonl was named")
        paths = utils.split_paths(self.cfg.data)
        path = Path(paths[(epoch - 1) % len(paths)])
        dataset = DuplexCuts(self._read(path, split), self.maker, split.startswith("train"), self.cfg.seed)
        logger.info(
            "%s, %s: %s frames in %s conversations", path, split, f"{int(dataset.sizes.sum()):,}", f"{len(dataset):,}"
        )
        self.datasets[split] = dataset

    @staticmethod
    def _read(path: Path, split: str) -> list[DuplexCut]:
        if path.suffix in (".yaml", ".yml"):
            return read_section_cuts(find_section(path, split), path.parent)
        return read_cuts(path / split if (path / split).is_dir() else path / f"{split}.jsonl")

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep of the task: the configuration of the model."""
        return {TASK_STATE: json.dumps(self.parts.located())}
