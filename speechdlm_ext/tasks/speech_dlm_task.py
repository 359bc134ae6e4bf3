"""The task of modelling spoken dialogue over parallel channels of units."""

import logging
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq import utils
from fairseq.data.indexed_dataset import get_available_dataset_impl
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import register_task
from omegaconf import II
from torch import Tensor

from speechdlm_ext.data.channel_dictionary import ChannelDictionary, find_channels, load_dictionaries
from speechdlm_ext.data.dialogue_dataset import DialogueDataset
from speechdlm_ext.data.flags import channel_weights, flag
from speechdlm_ext.data.unit_counts import share_counts
from speechdlm_ext.data.unit_stream import UnitStream, find_binarized
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.fairseq_generator import FairseqGenerator
from speechdlm_ext.tasks.prompted_generation_task import PromptedGenerationTask

logger = logging.getLogger(__name__)


@dataclass
class SpeechDLMTaskConfig(FairseqDataclass):
    """Options of the published task, and ``prompt_frames``."""

    data: Optional[str] = field(default=None, metadata={"help": "folder of binarized data"})
    channels: Optional[str] = field(
        default=None, metadata={"help": "comma-separated channels, as in unitA,unitB (default: all in the folder)"}
    )
    channel_weights: Optional[str] = field(
        default=None, metadata={"help": "comma-separated weights of the channels' losses (default: 1 each)"}
    )
    sample_break_mode: ChoiceEnum(["none", "complete", "complete_doc", "eos"]) = field(  # type: ignore[valid-type]
        default="none",
        metadata={
            "help": '"none" fills every block with --tokens-per-sample frames; "complete" breaks at ends of lines '
            'only, "complete_doc" also at empty lines; "eos" makes each line a block'
        },
    )
    tokens_per_sample: int = field(default=1024, metadata={"help": "frames in a block"})
    output_dictionary_size: int = field(default=-1, metadata={"help": "must be -1: the output has every unit"})
    next_unit_prediction: str = field(default="False", metadata={"help": "predict the next unit (True or False)"})
    edge_unit_prediction: str = field(default="True", metadata={"help": "predict the unit at edges (True or False)"})
    duration_prediction: str = field(default="True", metadata={"help": "predict durations (True or False)"})
    delayed_duration_target: str = field(
        default="True", metadata={"help": "predict a duration one frame after its edge (True or False)"}
    )
    max_target_durations: Optional[int] = field(
        default=256, metadata={"help": "durations are counted up to this many frames"}
    )
    add_bos_token: bool = field(default=False, metadata={"help": "begin lines with <s> instead of </s>"})
    max_target_positions: Optional[int] = field(
        default=None, metadata={"help": "greatest number of frames (default: --tokens-per-sample)"}
    )
    shorten_method: ChoiceEnum(["none", "truncate", "random_crop"]) = field(  # type: ignore[valid-type]
        default="none", metadata={"help": "must be none: cut lines before binarizing, or use --sample-break-mode none"}
    )
    shorten_data_split_list: str = field(default="", metadata={"help": "not used; see --shorten-method"})
    prompt_frames: int = field(
        default=150, metadata={"help": "fairseq-generate: frames of each block that are the prompt"}
    )
    seed: int = II("common.seed")
    dataset_impl: Optional[ChoiceEnum(get_available_dataset_impl())] = II(  # type: ignore[valid-type]
        "dataset.dataset_impl"
    )
    data_buffer_size: int = II("dataset.data_buffer_size")
    tpu: bool = II("common.tpu")


@register_task("speech_dlm_task", dataclass=SpeechDLMTaskConfig)
class SpeechDLMTask(PromptedGenerationTask):
    """Language modelling of C channels of units in time (Nguyen et al. 2022).

    Attributes:
        channels: names of the channels.
        targets: what is predicted, of ``next``, ``edge``, ``duration``.
        dictionary: the channels' dictionaries as one.
    """

    cfg: SpeechDLMTaskConfig
    dictionary: ChannelDictionary

    def __init__(self, cfg: SpeechDLMTaskConfig, dictionary: ChannelDictionary) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary
        self.channels = dictionary.channels
        self.channel_weights = channel_weights(cfg.channel_weights, self.channels)
        self.targets = _targets(cfg)
        self.delayed_duration_target = flag(cfg.delayed_duration_target, "--delayed-duration-target")
        if cfg.max_target_durations is None or cfg.max_target_durations < 1:
            raise InputError(f"--max-target-durations {cfg.max_target_durations}: 1 frame or more is expected")
        if cfg.output_dictionary_size >= 0 or str(cfg.shorten_method) != "none":
            raise InputError("--output-dictionary-size and --shorten-method are not supported: omit them")

    @classmethod
    def setup_task(cls, cfg: SpeechDLMTaskConfig, **kwargs: Any) -> "SpeechDLMTask":
        """Read the dictionaries of ``cfg.data``; raises :class:`InputError` where there are none."""
        if not cfg.data:
            raise InputError("no folder of binarized data was named")
        folder = utils.split_paths(cfg.data)[0]
        channels = [name.strip() for name in cfg.channels.split(",")] if cfg.channels else find_channels(folder)
        if len(set(channels)) < len(channels) or not all(channels):
            raise InputError(f"--channels {cfg.channels}: different names are expected, separated by commas")
        dictionaries = load_dictionaries(folder, channels)
        for channel, dictionary in zip(channels, dictionaries, strict=True):
            logger.info("[%s] dictionary: %d types", channel, len(dictionary))
        return cls(cfg, ChannelDictionary(channels, dictionaries))

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build a model (fairseq's entry); raises :class:`InputError` for one of fairseq's, which know one channel."""
        name = getattr(cfg, "_name", None) or getattr(cfg, "arch", None)
        kind = ARCH_MODEL_REGISTRY.get(name) or MODEL_REGISTRY.get(name)
        if kind is not None and kind.__module__.partition(".")[0] == "fairseq":
            raise InputError(f"a model {name}, expected speech_dlm: speech_dlm_task has {len(self.channels)} channels")
        return super().build_model(cfg, from_checkpoint)

    def load_dataset(self, split: str, combine: bool = False, epoch: int = 1, **kwargs: Any) -> None:
        """Open a split; of several data folders, the one for this epoch.

        With ``task_cfg``, the options of a checkpoint, blocks are no longer than those that it was trained on.
        """
        trained = kwargs.get("task_cfg") or self.cfg
        block_size = min(self.cfg.tokens_per_sample, getattr(trained, "tokens_per_sample", self.cfg.tokens_per_sample))
        paths = utils.split_paths(self.cfg.data)
        folder = paths[(epoch - 1) % len(paths)]
        streams = [UnitStream(find_binarized(folder, split, channel)) for channel in self.channels]
        dataset = DialogueDataset(
            streams,
            self.dictionary,
            block_size,
            str(self.cfg.sample_break_mode),
            self.cfg.max_target_durations or 1,
            shuffle=split.startswith("train"),
            start_symbol=self.start_symbol(),
        )
        seconds = f"{len(streams[0]):,} frames in {len(streams[0].sizes):,} lines, {len(dataset):,} blocks"
        logger.info("%s: %s of %s", split, seconds, ",".join(self.channels))
        self.datasets[split] = dataset

    def begin_update(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Called with all batches of an update before the first is trained on; see the criterion for why."""
        return share_counts(samples, len(self.channels))

    def start_symbol(self) -> int:
        """``<s>`` with ``--add-bos-token``, else the ``</s>`` of the line before."""
        return self.dictionary.bos() if self.cfg.add_bos_token else self.dictionary.eos()

    def empty_prompt(self) -> Tensor:
        """See :meth:`PromptedGenerationTask.empty_prompt`."""
        return torch.zeros(0, len(self.channels), dtype=torch.long)

    def cut_prompts(self, rows: Tensor, length: int | None) -> Tensor:
        """The first frames of blocks ``(B, T, C)``, ``--prompt-frames`` by default."""
        prompts = rows[:, : (self.cfg.prompt_frames if length is None else length) + 1].clone()
        prompts[:, 0] = self.start_symbol()  # a block begins with the unit before it, which is not continued
        return prompts

    def build_generator(
        self,
        models: list[Any],
        args: Any,
        seq_gen_cls: Any = None,
        extra_gen_cls_kwargs: Any = None,
        prefix_allowed_tokens_fn: Any = None,
    ) -> FairseqGenerator:
        """The generator that fairseq's commands call, with their options."""
        self.generator = FairseqGenerator(models, self.dictionary, args, self.cfg.seed)
        return self.generator


def _targets(cfg: SpeechDLMTaskConfig) -> list[str]:
    """What the options ask to predict; the next unit when they ask for nothing."""
    options = {
        "next": ("--next-unit-prediction", cfg.next_unit_prediction),
        "edge": ("--edge-unit-prediction", cfg.edge_unit_prediction),
        "duration": ("--duration-prediction", cfg.duration_prediction),
    }
    return [target for target, (option, value) in options.items() if flag(value, option)] or ["next"]
