"""The task of speech-text models: prompts with audio to text."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from fairseq import utils
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import register_task
from omegaconf import II

from speechdlm_ext.data.conversations import Conversation, iter_conversations
from speechdlm_ext.data.data_module import find_section, read_conversations
from speechdlm_ext.data.salm_dataset import ConversationDataset, SALMDataset
from speechdlm_ext.errors import InputError
from speechdlm_ext.tasks.plain_task import PlainTask

logger = logging.getLogger(__name__)


@dataclass
class SALMTaskConfig(FairseqDataclass):
    """Options of the task."""

    data: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder with train.jsonl, valid.jsonl, … (conversations, manifests, ShareGPT, lhotse's cuts), or a "
            "YAML file with train_ds and validation_ds, whose data sets are named by --valid-subset"
        },
    )
    context: str = field(default="", metadata={"help": "what a user says before the audio of a manifest or cut"})
    system_prompt: str = field(default="", metadata={"help": "of conversations that have none"})
    prompt_format: Optional[str] = field(
        default=None, metadata={"help": "instead of the model's: llama2, llama3, qwen, gemma, …, or chat"}
    )
    batch_seconds: Optional[float] = field(
        default=None,
        metadata={"help": "greatest amount of audio in a batch, padding included (--max-tokens: positions)"},
    )
    seed: int = II("common.seed")


@register_task("salm_task", dataclass=SALMTaskConfig)
class SALMTask(PlainTask):
    """Prompts with audio to text.

    Attributes:
        origin: of the model in the checkpoint that is being read, if one is; see :meth:`.SALM.origin`.
    """

    cfg: SALMTaskConfig

    def __init__(self, cfg: SALMTaskConfig) -> None:
        super().__init__(cfg)
        self.origin: Optional[dict[str, Any]] = None
        self.model: Any = None

    @classmethod
    def setup_task(cls, cfg: SALMTaskConfig, **kwargs: Any) -> "SALMTask":
        """See fairseq."""
        return cls(cfg)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the model, whose tokenizer and prompt format the data need."""
        self.model = super().build_model(cfg, from_checkpoint)
        if self.cfg.prompt_format:
            self.model.cfg["prompt_format"] = self.cfg.prompt_format
        return self.model

    def load_dataset(self, split: str, combine: bool = False, epoch: int = 1, **kwargs: Any) -> None:
        """Open a split; of several data folders, the one for this epoch."""
        if not self.cfg.data:
            raise InputError("no data were named: a folder with train.jsonl and valid.jsonl, or a YAML file")
        paths = utils.split_paths(self.cfg.data)
        path = Path(paths[(epoch - 1) % len(paths)])
        model, training = self.model, split.startswith("train")
        collate = SALMDataset(model.tokenizer, model.audio_locator_tag, model.cfg["prompt_format"], model.sampling_rate)
        dataset = ConversationDataset(
            self._read(path, split),
            collate,
            model.perception.output_frames,
            self.cfg.batch_seconds,
            model.max_positions(),
            training,
            self.cfg.seed,
        )
        logger.info("%s, %s: %d conversations, %d positions", path, split, len(dataset), int(dataset.sizes.sum()))
        if dataset.skipped:
            logger.warning("%s, %s: %d conversations longer than the context are skipped", path, split, dataset.skipped)
        self.datasets[split] = dataset

    def _read(self, path: Path, split: str) -> list[Conversation]:
        tag = self.model.audio_locator_tag
        if path.suffix in (".yaml", ".yml"):
            return read_conversations(find_section(path, split), tag, path.parent)
        file = path / split if (path / split).is_dir() else path / f"{split}.jsonl"
        return list(iter_conversations(file, tag, self.cfg.context, self.cfg.system_prompt))

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep of the task: how the model is built again, and where frozen weights are."""
        return {} if self.model is None else {"salm": self.model.origin()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint says of its model, before that is built."""
        self.origin = state_dict.get("salm")
