"""What the tasks have in common: models that continue sequences of units, by fairseq's own commands."""

import sys
from typing import Any

import torch
from torch import Tensor

from speechdlm_ext.data.dialogue_dataset import PromptDataset
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.fairseq_generator import FairseqGenerator
from speechdlm_ext.tasks.plain_task import BaseTask


class PromptedGenerationTask(BaseTask):
    """A task whose models continue prompts; a subclass says what a prompt is.

    Attributes:
        dictionary: of the units.
        generator: of the last call of ``build_generator``.
    """

    dictionary: Any
    generator: FairseqGenerator | None = None

    def cut_prompts(self, rows: Tensor, length: int | None) -> Tensor:
        """The prompts in rows of data, each after the start symbol.

        Args:
            rows: ``net_input.src_tokens`` of a batch.
            length: of the prompts, without the start symbol; None for the length that the options say.
        """
        raise NotImplementedError

    def empty_prompt(self) -> Tensor:
        """What stands for a line that cannot be parsed: a prompt of nothing."""
        raise NotImplementedError

    def start_symbol(self) -> int:
        """What stands before the first unit."""
        raise NotImplementedError

    def build_dataset_for_inference(self, src_tokens: list[Tensor], src_lengths: Any, **kwargs: Any) -> PromptDataset:
        """A dataset of prompts ``(T, C)``."""
        return PromptDataset(src_tokens, self.start_symbol(), self.dictionary.pad())

    def get_interactive_tokens_and_lengths(self, lines: list[str], encode_fn: Any) -> tuple[list[Tensor], list[int]]:
        """Parse lines of units.

        A line that cannot be parsed or continued is explained on standard error and becomes an empty prompt, which has
        no answer, so that the next line is served.
        """
        prompts = []
        for line in lines:
            try:
                prompt = self.dictionary.encode_line(encode_fn(_checked(line)))
                if self.generator is not None:
                    self.generator.core.options.limit(len(prompt))
                prompts.append(prompt)
            except InputError as error:
                print(f"skipped: {error}", file=sys.stderr, flush=True)
                prompts.append(self.empty_prompt())
        return prompts, [len(prompt) for prompt in prompts]

    def inference_step(
        self,
        generator: FairseqGenerator,
        models: list[Any],
        sample: Any,
        prefix_tokens: Any = None,
        constraints: Any = None,
    ) -> list[list[dict[str, Any]]]:
        """Continue the prompts of a batch; of a sequence of data, its beginning."""
        if constraints is not None:
            raise InputError("--constraints are for translation: no model of units supports them")
        if sample.get("target") is not None:
            length = None if prefix_tokens is None else prefix_tokens.size(1)
            sample["net_input"]["src_tokens"] = self.cut_prompts(sample["net_input"]["src_tokens"], length)
        with torch.no_grad():
            return generator.generate(models, sample)

    @property
    def source_dictionary(self) -> Any:
        """The dictionary of the units."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Any:
        """The same as :attr:`source_dictionary`."""
        return self.dictionary

    def max_positions(self) -> int | None:
        """No limit but the model's."""
        return None


def _checked(line: str) -> str:
    """The line; raises :class:`InputError` where it holds bytes that are not UTF-8."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        byte = ord(line[error.start]) - 0xDC00
        raise InputError(f"the line: byte {byte:#04x} after {error.start} characters is not UTF-8") from None
    return line
