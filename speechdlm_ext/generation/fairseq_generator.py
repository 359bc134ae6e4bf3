"""The generator that fairseq-generate and fairseq-interactive call."""

from __future__ import annotations

from typing import Any

import torch

from speechdlm_ext.data.channel_dictionary import ChannelDictionary
from speechdlm_ext.data.unit_dictionary import UnitDictionary
from speechdlm_ext.generation.filters import FILTERS, OFF
from speechdlm_ext.generation.generator import DialogueGenerator
from speechdlm_ext.generation.options import DecodingOptions
from speechdlm_ext.generation.search import row_seed

DEFAULT_LENGTH = 200  # fairseq's --max-len-b


def decoding_options(
    args: Any, stop_at_end: bool = False, max_frames: int | None = None, window: int | None = None
) -> DecodingOptions:
    """Fairseq's generation options as ours; with ``max_frames``, its default length is no limit."""
    if max_frames is not None and (args.max_len_a, args.max_len_b) == (0, DEFAULT_LENGTH):
        args.max_len_b = max_frames
    filters: dict[str, Any] = {own.option: getattr(args, own.option, OFF) for own in FILTERS}
    return DecodingOptions(
        stop_at_end=stop_at_end,
        max_frames=max_frames,
        window=window,
        beam=args.beam,
        sampling=args.sampling,
        **filters,
        temperature=args.temperature,
        max_len_a=args.max_len_a,
        max_len_b=args.max_len_b,
        min_len=args.min_len,
        len_penalty=args.lenpen,
        normalize_scores=not args.unnormalized,
    )


class FairseqGenerator:
    """:class:`DialogueGenerator` with the interface of fairseq's ``SequenceGenerator``.

    Args:
        seed: of the run.
        options: ``stop_at_end``, ``max_frames`` and ``window`` of :class:`DecodingOptions`; fairseq has none for them.
    """

    # Read by fairseq's commands when they print.
    symbols_to_strip_from_output: frozenset[int] = frozenset()

    def __init__(
        self,
        models: list[Any],
        dictionary: ChannelDictionary | UnitDictionary,
        args: Any,
        seed: int = 1,
        **options: Any,
    ) -> None:
        self.dictionary, self.seed = dictionary, seed
        self.rows = 0  # done so far
        self.core = DialogueGenerator(models, dictionary, decoding_options(args, **options))

    def generate(self, models: list[Any], sample: dict[str, Any], **unused: Any) -> list[list[dict[str, Any]]]:
        """Continue ``sample["net_input"]["src_tokens"]``, which begin with the start symbol.

        They are ``(B, T, C)``, or ``(B, T)`` for unit language models. A row's random numbers depend on its number in
        the data (``sample["id"]``), or on how many rows came before it where it has none (fairseq-interactive).

        Returns:
            For each row, hypotheses as dictionaries with ``tokens`` ``(T, C)`` or ``(T,)`` and ``positional_scores``
            ``(T + 1,)``, the sum over channels; ``durations`` like ``tokens``, in frames, or ``None``. A row without a
            frame has none.
        """
        rows = sample["net_input"]["src_tokens"].cpu()
        units = (rows if rows.dim() == 3 else rows.unsqueeze(-1))[:, 1:]
        real = units.ne(self.dictionary.pad()).any(-1)
        lengths = (real * torch.arange(1, units.size(1) + 1)).amax(1).tolist() if units.size(1) else [0] * len(rows)
        prompts = [row[:length] for row, length in zip(units, lengths, strict=True)]
        numbers = sample["id"].tolist() if "id" in sample else range(self.rows, self.rows + len(prompts))
        self.rows += len(prompts)
        seeds = [row_seed(self.seed, number) for number in numbers]
        served = [i for i, prompt in enumerate(prompts) if len(prompt)]
        found = self.core.generate([prompts[i] for i in served], [seeds[i] for i in served])
        results: list[list[dict[str, Any]]] = [[] for _ in prompts]
        for i, hypotheses in zip(served, found, strict=True):
            results[i] = [
                {
                    "tokens": hypothesis.units.view(len(hypothesis.units), *rows.shape[2:]),
                    "score": hypothesis.score,
                    "attention": None,
                    "alignment": None,
                    "positional_scores": hypothesis.positional_scores.sum(-1),
                    "durations": hypothesis.durations,
                }
                for hypothesis in hypotheses
            ]
        return results
