"""Loading trained models for use from Python and from the scripts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from fairseq import checkpoint_utils
from torch import Tensor, nn

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.dialogue_generator import DialogueGenerator, Hypothesis
from speechdlm_ext.generation.options import DecodingOptions
from speechdlm_ext.tasks.speech_dlm_task import SpeechDLMTask

Dialogue = Mapping[str, str]


def load_speech_dlm(
    model_name_or_path: str, checkpoint_file: str = "model.pt", data_name_or_path: str = ".", **overrides: Any
) -> DialogueModel:
    """Load one checkpoint or an ensemble.

    Args:
        model_name_or_path: folder of the checkpoint, or the checkpoint itself.
        checkpoint_file: its name in that folder; several, separated by colons, make an ensemble.
        data_name_or_path: folder with ``dict.<channel>.txt``; beginning with "." it is relative to the checkpoint's.
        overrides: options of the task or the model to change.

    Raises:
        InputError: a file is missing, or the checkpoint is not of a SpeechDLM.
    """
    folder, names = model_name_or_path, checkpoint_file
    if os.path.isfile(folder):
        folder, names = os.path.split(os.path.abspath(folder))
    paths = [os.path.join(folder, name) for name in names.split(os.pathsep)]
    for path in paths:
        if not os.path.exists(path):
            raise InputError(f"{path}: no such checkpoint")
    data = data_name_or_path
    if data.startswith(".") and not os.path.exists(os.path.join(data, "dict.txt")):
        beside = os.path.abspath(os.path.join(folder, data))
        data = beside if os.path.isdir(beside) and not _has_dictionaries(data) else data
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task(
        paths, arg_overrides={"data": data, **overrides}, strict=True
    )
    if not isinstance(task, SpeechDLMTask):
        raise InputError(f"{paths[0]}: a model of task {cfg.task._name}, speech_dlm_task is wanted")
    return DialogueModel(models, task)


def _has_dictionaries(folder: str) -> bool:
    return os.path.isdir(folder) and any(name.startswith("dict.") for name in os.listdir(folder))


class DialogueModel(nn.Module):
    """Trained SpeechDLMs, ready to continue dialogues.

    Attributes:
        models: the ensemble.
        task: the task that they were trained on.
        channels: names of the channels.
    """

    def __init__(self, models: Sequence[Any], task: SpeechDLMTask) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.task = task
        self.channels = task.channels
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encode(self, dialogue: Dialogue, where: str = "the prompt") -> Tensor:
        """Units as text, by channel, to ids ``(T, C)``.

        A unit ``<pad>`` or ``<unk>`` stands for a frame that the model is to fill in.

        Raises:
            InputError: a channel is missing, or too many, or has unknown units; channels of unequal length.
        """
        missing = [channel for channel in self.channels if channel not in dialogue]
        if missing:
            raise InputError(
                f"{where}: channel {missing[0]} is missing, found {', '.join(dialogue)}; the model's channels are "
                f"{', '.join(self.channels)}"
            )
        return self.task.dictionary.encode_channels(
            [dialogue[channel] for channel in self.channels], where, free=("<pad>", "<unk>")
        )

    def decode(self, units: Tensor) -> dict[str, str]:
        """Ids ``(T, C)`` to units as text, by channel."""
        return self.task.dictionary.channel_strings(units)

    def generate(
        self,
        prompts: Sequence[Tensor],
        options: DecodingOptions,
        seeds: Sequence[int],
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """Continue prompts ``(T, C)``; see :meth:`DialogueGenerator.generate`."""
        return DialogueGenerator(list(self.models), self.task.dictionary, options).generate(prompts, seeds, progress)

    def sample(self, dialogues: Any, beam: int = 1, seed: int | Sequence[int] = 1, **options: Any) -> Any:
        """Continue dialogues.

        Args:
            dialogues: a dictionary ``{"unitA": "7 376 …", "unitB": "…"}`` or a list of them.
            beam: hypotheses for each; the likeliest is returned.
            seed: one for each dialogue, or one number, from which they are counted up.
            options: of :class:`DecodingOptions`; ``max_len_b`` is the total length in frames, prompt included.

        Returns:
            Prompt and continuation of each dialogue, in the form of the input.
        """
        if isinstance(dialogues, Mapping):
            return self.sample([dialogues], beam, seed, **options)[0]
        prompts = [self.encode(dialogue, f"dialogue {i}") for i, dialogue in enumerate(dialogues, 1)]
        seeds = [seed + i for i in range(len(prompts))] if isinstance(seed, int) else list(seed)
        found = self.generate(prompts, DecodingOptions(beam=beam, **options), seeds)
        return [self.decode(hypotheses[0].units) for hypotheses in found]
