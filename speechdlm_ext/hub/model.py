"""A trained SpeechDLM, or several, for use from Python."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from speechdlm_ext.checkpoints.pretrained_folder import save_speech_dlm
from speechdlm_ext.generation.generator import Hypothesis
from speechdlm_ext.hub.dialogues import Dialogue, column, dialogue_list, encode_dialogue, encode_whole
from speechdlm_ext.hub.ensemble import Ensemble
from speechdlm_ext.hub.sampling import check_free, decoding_options, progress_bar
from speechdlm_ext.hub.scoring import score_dialogues
from speechdlm_ext.tasks.speech_dlm_task import SpeechDLMTask

logger = logging.getLogger(__name__)


class DialogueModel(Ensemble):
    """Trained SpeechDLMs, ready to continue and to score dialogues.

    A dialogue is a dictionary ``{"unitA": "7 376 …", "unitB": "…"}``, or ids ``(T, C)`` as :meth:`encode` makes them.

    Attributes:
        models: the ensemble.
        task: the task that they were trained on.
        channels: names of the channels.
    """

    def __init__(self, models: Sequence[Any], task: SpeechDLMTask) -> None:
        super().__init__(models, task.dictionary)
        self.task = task
        self.channels = task.channels

    def encode(
        self,
        dialogue: Dialogue,
        where: str = "the prompt",
        condition_on: str | None = None,
        prompt_frames: int | None = None,
    ) -> Tensor:
        """A dialogue to ids ``(T, C)``; arguments and errors as :func:`.dialogues.encode_dialogue`.

        A unit ``<pad>`` or ``<unk>`` stands for a frame that the model is to fill in.
        """
        return encode_dialogue(dialogue, self.task.dictionary, where, condition_on, prompt_frames)

    def decode(self, units: Tensor) -> dict[str, str]:
        """Ids ``(T, C)`` to units as text, by channel."""
        return self.task.dictionary.channel_strings(units)

    def sample(
        self,
        dialogues: Any,
        beam: int = 1,
        verbose: bool = False,
        seed: int | Sequence[int] = 1,
        condition_on: str | None = None,
        prompt_frames: int | None = None,
        **options: Any,
    ) -> Any:
        """Continue dialogues.

        Args:
            dialogues: one dialogue (text by channel, or ids ``(T, C)``), a list of them, or ids ``(B, T, C)``.
            beam: hypotheses for each; the most probable is returned.
            verbose: show progress, and log every hypothesis with its score.
            seed: one for each dialogue, or one number for all, see :meth:`.continue_prompts`.
            condition_on: a channel that is given in full. The others keep the units that they have (in ids: but
                ``<pad>``) and are continued up to its end. The model is causal: when it draws a frame it knows the
                given channel up to the frame before, as it knows the others, and not what follows. Without
                ``max_len_a`` and ``max_len_b`` the result is as long as the given channel; where they allow more,
                all channels are continued after its end.
            prompt_frames: keep this many frames of each prompt (with ``condition_on``: of the other channels).
            options: of :class:`DecodingOptions`, and fairseq's ``lenpen`` and ``unnormalized``; ``max_len_b`` is the
                total length in frames, prompt included.

        Returns:
            Prompt and continuation of each dialogue, in the form of the input.

        Raises:
            InputError: a prompt that the model cannot take, an option that is unknown or out of range.
        """
        asked = dialogue_list(dialogues)
        prompts = [
            self.encode(dialogue, f"dialogue {i}", condition_on, prompt_frames) for i, dialogue in enumerate(asked, 1)
        ]
        settings = decoding_options(options, beam, as_long_as_the_prompt=condition_on is not None)
        if condition_on is not None:
            check_free(prompts, settings, (self.task.dictionary.pad(), self.task.dictionary.unk()))
        found = self.continue_prompts(prompts, settings, seed, "dialogues", verbose)
        if verbose:
            self._log(prompts, found)
        best = [hypotheses[0].units for hypotheses in found]
        if isinstance(dialogues, Tensor) and dialogues.dim() == 3:
            return torch.stack(best) if best else dialogues
        answers = [
            units if isinstance(dialogue, Tensor) else self.decode(units)
            for dialogue, units in zip(asked, best, strict=True)
        ]
        return answers[0] if isinstance(dialogues, (Mapping, Tensor)) else answers

    def score(
        self, dialogues: Any, condition_on: str | None = None, ending: bool = False, verbose: bool = False
    ) -> Any:
        """Log-likelihood of given dialogues, per channel, frame and edge, with the errors of the durations.

        The figures are those of ``fairseq-validate``: a dialogue longer than ``--tokens-per-sample`` is cut into
        blocks of so many frames, each of which begins without memory of the one before (but for its last unit).

        Args:
            dialogues: one dialogue (text by channel, or ids ``(T, C)``), a list of them, or ids ``(B, T, C)``. Ids may
                hold ``</s>`` where lines end.
            condition_on: a channel that is given and not scored. The model is causal and predicts the channels of a
                frame side by side, each from the frames before it of all channels. So the unit of frame t is scored
                given the units of frames 0 to t - 1 of the given channel, just as far as of its own; what is given of
                frame t and later plays no part. The figures of the other channels are the same as without it:
                what is left is their causally conditioned likelihood, Σ log p(b_t | a_<t, b_<t).
            ending: append the ``</s>`` that a line of binarized data ends with; the results have T + 1 frames.
            verbose: show progress.

        Returns:
            A :class:`DialogueScore`, or a list of them for a list or ids ``(B, T, C)``.

        Raises:
            InputError: a dialogue that the model does not understand, or with free frames (``<pad>``), or empty.
        """
        given = column(self.task.dictionary, condition_on)
        asked = dialogue_list(dialogues)
        whole = [encode_whole(dialogue, self.task.dictionary, f"dialogue {i}") for i, dialogue in enumerate(asked, 1)]
        if ending:
            end = torch.full((1, len(self.channels)), self.task.dictionary.eos())
            whole = [torch.cat([units, end]) for units in whole]
        with progress_bar(sum(map(len, whole)), "scoring", verbose) as bar:
            scores = score_dialogues(list(self.models), self.task, whole, progress=bar.update)
        if given is not None:
            scores = [score.without(given) for score in scores]
        one = isinstance(dialogues, Mapping) or (isinstance(dialogues, Tensor) and dialogues.dim() == 2)
        return scores[0] if one else scores

    def save_pretrained(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write ``config.json``, ``model.safetensors`` and the dictionaries, for :meth:`SpeechDLM.from_pretrained`.

        Raises:
            InputError: there is a model already, and not ``overwrite``; or this is an ensemble.
        """
        save_speech_dlm(folder, self.only_model(), self.task, overwrite)

    def _log(self, prompts: Sequence[Tensor], found: Sequence[Sequence[Hypothesis]]) -> None:
        for prompt, hypotheses in zip(prompts, found, strict=True):
            logger.info("S\t%s", self.task.dictionary.string(prompt))
            for hypothesis in hypotheses:
                logger.info("H\t%.4f\t%s", hypothesis.score, self.task.dictionary.string(hypothesis.units))
