"""The generator that fairseq-generate and fairseq-interactive call."""

from __future__ import annotations

from typing import Any

import torch

from speechdlm_ext.data.channel_dictionary import ChannelDictionary
from speechdlm_ext.generation.dialogue_generator import DialogueGenerator
from speechdlm_ext.generation.options import DecodingOptions


def decoding_options(args: Any) -> DecodingOptions:
    """Fairseq's generation options as ours."""
    return DecodingOptions(
        beam=args.beam,
        sampling=args.sampling,
        sampling_topk=args.sampling_topk,
        sampling_topp=args.sampling_topp,
        temperature=args.temperature,
        max_len_a=args.max_len_a,
        max_len_b=args.max_len_b,
        min_len=args.min_len,
        len_penalty=args.lenpen,
        normalize_scores=not args.unnormalized,
    )


class FairseqGenerator:
    """:class:`DialogueGenerator` with the interface of fairseq's ``SequenceGenerator``."""

    # Read by fairseq's commands when they print.
    symbols_to_strip_from_output: frozenset[int] = frozenset()

    def __init__(self, models: list[Any], dictionary: ChannelDictionary, args: Any) -> None:
        self.dictionary = dictionary
        self.core = DialogueGenerator(models, dictionary, decoding_options(args))

    def generate(self, models: list[Any], sample: dict[str, Any], **unused: Any) -> list[list[dict[str, Any]]]:
        """Continue ``sample["net_input"]["src_tokens"]`` ``(B, T, C)``, which begin with the start symbol.

        Returns:
            For each row, hypotheses as dictionaries with ``tokens`` ``(T, C)`` and ``positional_scores`` ``(T + 1,)``,
            the sum over channels. A row without a frame has none.
        """
        prompts = []
        for row in sample["net_input"]["src_tokens"]:
            units = row[1:]
            real = units.ne(self.dictionary.pad()).any(-1)
            prompts.append(units[: int(real.nonzero().max()) + 1] if bool(real.any()) else units[:0])
        seeds = torch.randint(2**62, (len(prompts),)).tolist()
        served = [i for i, prompt in enumerate(prompts) if len(prompt)]
        found = self.core.generate([prompts[i] for i in served], [seeds[i] for i in served])
        results: list[list[dict[str, Any]]] = [[] for _ in prompts]
        for i, hypotheses in zip(served, found, strict=True):
            results[i] = [
                {
                    "tokens": hypothesis.units,
                    "score": hypothesis.score,
                    "attention": None,
                    "alignment": None,
                    "positional_scores": hypothesis.positional_scores.sum(-1),
                }
                for hypothesis in hypotheses
            ]
        return results
