"""The task of modelling one channel of units: utterances, or blocks of the published recipe that start anywhere."""

import logging
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import torch
from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import register_task
from omegaconf import II
from torch import Tensor

from speechdlm_ext.data.binarized_corpus import BinarizedCorpus
from speechdlm_ext.data.dialogue_dataset import PromptDataset
from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.data.unit_stream import UnitStream
from speechdlm_ext.data.utterance_dataset import UtteranceDataset
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.fairseq_generator import FairseqGenerator
from speechdlm_ext.generation.options import frames_of
from speechdlm_ext.tasks.prompted_generation_task import PromptedGenerationTask

logger = logging.getLogger(__name__)

DEFAULT_FRAME_RATE = 50.0  # Hz: that of the encoders whose units come with durations
# Among so many units of speech, taken frame by frame, some are repeated.
LOOKED_AT = 10_000


@dataclass
class UnitLanguageModelingConfig(FairseqDataclass):
    """Options of the task."""

    data: Optional[str] = field(default=None, metadata={"help": "folder of binarized data"})
    channel: Optional[str] = field(
        default=None, metadata={"help": "the channel to model, as in unitA (default: the only one in the folder)"}
    )
    units: Optional[int] = field(
        default=None,
        metadata={"help": "size of the codebook (default: one more than the greatest unit in the dictionary)"},
    )
    durations: bool = field(
        default=False,
        metadata={"help": "predict each unit's duration, too; the channel <channel>.durations has them, in frames"},
    )
    frame_rate: Optional[float] = field(
        default=None,
        metadata={
            "help": "frames per second of --durations (default: 50), or of units that are not deduplicated; for the "
            "bits per second of audio in the logs"
        },
    )
    sample_break_mode: ChoiceEnum(["eos", "random"]) = field(  # type: ignore[valid-type]
        default="eos",
        metadata={
            "help": '"eos": whole utterances; "random": training data are blocks of --tokens-per-sample units that '
            "start anywhere, elsewhere in each epoch, and continue into the utterances that follow"
        },
    )
    tokens_per_sample: int = field(default=1024, metadata={"help": "units in a block (see --sample-break-mode random)"})
    prompt_units: int = field(
        default=50, metadata={"help": "fairseq-generate: units of each utterance that are the prompt (--prefix-size)"}
    )
    max_seconds: Optional[float] = field(
        default=None,
        metadata={"help": "fairseq-generate and -interactive: seconds at which a sequence ends, prompt included"},
    )
    window: Optional[int] = field(
        default=None,
        metadata={
            "help": "fairseq-generate and -interactive: units that a unit is predicted from, at most (an LSTM has no "
            "such limit): however long the sequence, memory and time per unit stay constant"
        },
    )
    seed: int = II("common.seed")


@register_task("unit_language_modeling", dataclass=UnitLanguageModelingConfig)
class UnitLanguageModelingTask(PromptedGenerationTask):
    """Language modelling of one channel of units, with their durations beside them if asked for.

    Attributes:
        dictionary: the rows of the model.
        frame_rate: frames per second of what the data count; ``None`` where seconds are not known.
    """

    cfg: UnitLanguageModelingConfig
    dictionary: UnitDictionary

    def __init__(self, cfg: UnitLanguageModelingConfig, dictionary: UnitDictionary) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary
        if cfg.tokens_per_sample < 2:
            raise InputError(f"--tokens-per-sample {cfg.tokens_per_sample}: 2 units or more are expected")
        if cfg.frame_rate is not None and not (np.isfinite(cfg.frame_rate) and cfg.frame_rate > 0):
            raise InputError(f"--frame-rate {cfg.frame_rate}: frames per second are expected, a number above 0")
        self.frame_rate = cfg.frame_rate or (DEFAULT_FRAME_RATE if cfg.durations else None)

    @classmethod
    def setup_task(cls, cfg: UnitLanguageModelingConfig, **kwargs: Any) -> "UnitLanguageModelingTask":
        """Read the dictionary of ``cfg.data``; raises :class:`InputError` where it is not one of units."""
        if not cfg.data:
            raise InputError("no folder of binarized data was named")
        corpus = BinarizedCorpus(utils.split_paths(cfg.data)[0], cfg.channel)
        dictionary = UnitDictionary.of(corpus.dictionary, corpus.path, cfg.units)
        logger.info("%s: %d units, %d rows with BOS", corpus.path, dictionary.units, len(dictionary))
        return cls(cfg, dictionary)

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep of the task."""
        return {"units": self.dictionary.units}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the codebook's size from a checkpoint, where the data's dictionary only lacks its last units."""
        units = state_dict.get("units")
        if units is not None and self.cfg.units is None and units > self.dictionary.units:
            self.dictionary = UnitDictionary(units)

    def load_dataset(self, split: str, combine: bool = False, epoch: int = 1, **kwargs: Any) -> None:
        """Open a split; of several data folders, the one for this epoch. Others than ``train`` are whole utterances."""
        paths = utils.split_paths(self.cfg.data)
        corpus = BinarizedCorpus(paths[(epoch - 1) % len(paths)], self.cfg.channel)
        training = split.startswith("train")
        blocks = training and str(self.cfg.sample_break_mode) == "random"
        dataset = UtteranceDataset(
            corpus.units(split, self.dictionary),
            self.dictionary,
            corpus.durations(split) if self.cfg.durations else None,
            self.cfg.tokens_per_sample if blocks else None,
            shuffle=training,
            seed=self.cfg.seed,
        )
        stream = dataset.units.stream
        units = len(stream) - len(stream.sizes)
        empty = f" ({dataset.empty:,} more are empty)" if dataset.empty else ""
        logger.info("%s: %s units in %s utterances%s", split, f"{units:,}", f"{len(dataset.full):,}", empty)
        if self.cfg.frame_rate and not self.cfg.durations:
            _warn_of_deduplicated(stream)
        self.datasets[split] = dataset

    def eval_lm_dataloader(
        self,
        dataset: UtteranceDataset,
        max_tokens: Optional[int] = 36000,
        batch_size: Optional[int] = None,
        max_positions: Optional[int] = None,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 1,
        data_buffer_size: int = 10,
        context_window: int = 0,
    ) -> Any:
        """The batches of ``fairseq-eval-lm``."""
        if context_window:
            raise InputError("--context-window: utterances are scored whole, leave it at 0")
        batches = self.get_batch_iterator(
            dataset,
            max_tokens=max_tokens,
            max_sentences=batch_size,
            num_shards=num_shards,
            shard_id=shard_id,
            num_workers=num_workers,
            data_buffer_size=data_buffer_size,
        )
        return batches.next_epoch_itr(shuffle=False)

    def start_symbol(self) -> int:
        """BOS."""
        return self.dictionary.bos()

    def empty_prompt(self) -> Tensor:
        """See :meth:`PromptedGenerationTask.empty_prompt`."""
        return torch.zeros(0, dtype=torch.long)

    def cut_prompts(self, rows: Tensor, length: int | None) -> Tensor:
        """The first units of utterances ``(B, T)`` after BOS, ``--prompt-units`` by default."""
        return rows[:, : (self.cfg.prompt_units if length is None else length) + 1]

    def build_dataset_for_inference(self, src_tokens: list[Tensor], src_lengths: Any, **kwargs: Any) -> PromptDataset:
        """A dataset of prompts ``(T,)``, as ``(T, 1)``."""
        return super().build_dataset_for_inference([rows.unsqueeze(-1) for rows in src_tokens], src_lengths, **kwargs)

    def build_generator(
        self,
        models: list[Any],
        args: Any,
        seq_gen_cls: Any = None,
        extra_gen_cls_kwargs: Any = None,
        prefix_allowed_tokens_fn: Any = None,
    ) -> FairseqGenerator:
        """The generator that fairseq's commands call: a sequence ends at EOS, or where the options say."""
        seconds = self.cfg.max_seconds
        max_frames = None if seconds is None else frames_of(seconds, self.frame_rate)
        own = {"stop_at_end": True, "max_frames": max_frames, "window": self.cfg.window}
        self.generator = FairseqGenerator(models, self.dictionary, args, self.cfg.seed, **own)
        return self.generator


def _warn_of_deduplicated(stream: UnitStream) -> None:
    units = stream.read(0, LOOKED_AT)
    if len(units) >= LOOKED_AT and not (units[1:] == units[:-1]).any():
        logger.warning(
            "%s: no unit is ever repeated, as if they were deduplicated: --frame-rate is for units that are not; give "
            "their durations (--durations), else bits per second are wrong",
            stream.path,
        )
