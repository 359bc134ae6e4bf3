"""What the interfaces of the hub have in common: trained models that continue prompts together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.generator import DialogueGenerator, Hypothesis
from speechdlm_ext.generation.options import DecodingOptions
from speechdlm_ext.generation.search import Seed, row_seed
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
        seeds: Sequence[Seed],
        progress: Callable[[int], None] | None = None,
        durations: Sequence[Tensor] | None = None,
    ) -> list[list[Hypothesis]]:
        """Continue prompts ``(T, C)`` of ids; see :meth:`DialogueGenerator.generate`."""
        generator = DialogueGenerator(list(self.models), self._vocabulary, options)
        return generator.generate(prompts, seeds, progress, durations)

    def continue_prompts(
        self, prompts: Sequence[Tensor], options: DecodingOptions, seed: Any, what: str, verbose: bool
    ) -> list[list[Hypothesis]]:
        """The same, with progress where it is ``verbose``.

        Args:
            seed: one number for all, with which each prompt has random numbers by its place in the list; or one for
                each prompt, a number or what :func:`.row_seed` makes.
            what: the prompts are called, as in "dialogues".

        Raises:
            InputError: a number of seeds other than that of the prompts, or a seed out of range.
        """
        each = [(seed, i) for i in range(len(prompts))] if isinstance(seed, int) else list(seed)
        if len(each) != len(prompts):
            raise InputError(f"seed: {len(each)} numbers for {len(prompts)} {what}")
        seeds = [row_seed(own) if isinstance(own, int) else row_seed(*own) for own in each]
        limits = [options.limit(len(prompt)) for prompt in prompts]
        with progress_bar(sum(limits), "sampling", verbose) as bar, FrameProgress(limits, bar.update) as progress:
            return self.generate(prompts, options, seeds, progress)

    def only_model(self) -> Any:
        """The model; raises :class:`InputError` where there are several, which cannot be saved in one folder."""
        if len(self.models) > 1:
            raise InputError(f"an ensemble of {len(self.models)} models cannot be saved in one folder: save each alone")
        return self.models[0]
