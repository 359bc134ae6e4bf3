"""What the interfaces of the hub have in common: trained models that continue prompts together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.dialogue_generator import DialogueGenerator, Hypothesis
from speechdlm_ext.generation.options import DecodingOptions
from speechdlm_ext.hub.sampling import FrameProgress, progress_bar


class Ensemble(nn.Module):
    """Trained models in evaluation mode.

    Args:
        models: one or more.
        vocabulary: of their units, as :class:`DialogueGenerator` takes it.

    Attributes:
        models: the ensemble.
    """

    def __init__(self, models: Sequence[Any], vocabulary: Any) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self._vocabulary = vocabulary
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def generate(
        self,
        prompts: Sequence[Tensor],
        options: DecodingOptions,
        seeds: Sequence[int],
        progress: Callable[[int], None] | None = None,
        durations: Sequence[Tensor] | None = None,
    ) -> list[list[Hypothesis]]:
        """Continue prompts ``(T, C)`` of ids; see :meth:`DialogueGenerator.generate`."""
        generator = DialogueGenerator(list(self.models), self._vocabulary, options)
        return generator.generate(prompts, seeds, progress, durations)

    def continue_prompts(
        self, prompts: Sequence[Tensor], options: DecodingOptions, seed: int | Sequence[int], what: str, verbose: bool
    ) -> list[list[Hypothesis]]:
        """The same, with progress where it is ``verbose``.

        Args:
            seed: one for each prompt, or one number, from which they are counted up.
            what: the prompts are called, as in "dialogues".

        Raises:
            InputError: as many seeds as prompts are wanted.
        """
        seeds = [seed + i for i in range(len(prompts))] if isinstance(seed, int) else list(seed)
        if len(seeds) != len(prompts):
            raise InputError(f"seed: {len(seeds)} numbers for {len(prompts)} {what}")
        limits = [options.limit(len(prompt)) for prompt in prompts]
        with progress_bar(sum(limits), "sampling", verbose) as bar, FrameProgress(limits, bar.update) as progress:
            return self.generate(prompts, options, seeds, progress)

    def only_model(self) -> Any:
        """The model; raises :class:`InputError` where there are several, which cannot be saved in one folder."""
        if len(self.models) > 1:
            raise InputError(f"an ensemble of {len(self.models)} models cannot be saved in one folder: save each alone")
        return self.models[0]
