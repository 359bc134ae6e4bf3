"""What a worker does with unit language models: sampling and scoring, ours and fairseq's; see worker.py."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch

Work = Callable[[], dict[str, float]]
# fairseq's transformer_lm with as many parameters as ours.
SHAPES = {
    "transformer_lm_base": {"dim": 512, "layers": 8, "heads": 8, "hidden": 3072},
    "transformer_lm_small": {"dim": 256, "layers": 4, "heads": 4, "hidden": 1536},
}
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]


def sampling(settings: dict[str, Any]) -> Work:
    """Continue one prompt to ``length`` units as users do."""
    model, dictionary = build(settings)
    length = settings["length"]
    if dictionary is None:
        from speechdlm_ext.hub import UnitModel

        hub = UnitModel([model.eval()])
        return timed(
            settings,
            lambda: hub.sample(PROMPT, max_len_b=length, sampling=True, stop_at_end=False, compile=settings["compile"]),
            length - len(PROMPT),
        )
    from fairseq.search import Sampling
    from fairseq.sequence_generator import SequenceGenerator

    generator = SequenceGenerator(
        [model.eval()], dictionary, beam_size=1, max_len_b=length, min_len=length, search_strategy=Sampling(dictionary)
    ).to(settings["device"])
    prompt = torch.tensor([[dictionary.eos(), *(unit + dictionary.nspecial for unit in PROMPT)]])
    prompt = prompt.to(settings["device"])
    sample = {"net_input": {"src_tokens": prompt, "src_lengths": torch.tensor([prompt.size(1)])}}
    return timed(
        settings, lambda: generator.generate([model], sample, prefix_tokens=prompt[:, 1:]), length - len(PROMPT)
    )


@torch.no_grad()
def scoring(settings: dict[str, Any]) -> Work:
    """Log-likelihoods of ``lines``, all at once or one at a time (``alone``)."""
    model, dictionary = build(settings)
    lines = settings["lines"]
    units = sum(map(len, lines))
    if dictionary is None:
        from speechdlm_ext.hub import UnitModel

        hub = UnitModel([model.eval()])
        if settings["alone"]:
            return timed(settings, lambda: [hub.score(line) for line in lines], units)
        return timed(settings, lambda: hub.score(lines), units)
    from fairseq.sequence_scorer import SequenceScorer

    scorer = SequenceScorer(dictionary)
    model.eval()
    rows = [torch.tensor([[dictionary.eos(), *(u + dictionary.nspecial for u in line)]]) for line in lines]
    rows = [row.to(settings["device"]) for row in rows]
    samples = [{"net_input": {"src_tokens": row[:, :-1]}, "target": row[:, 1:]} for row in rows]
    return timed(settings, lambda: [scorer.generate([model], sample) for sample in samples], units)


def build(settings: dict[str, Any]) -> tuple[Any, Any]:
    """A model with random weights; with fairseq's, its dictionary, else None."""
    torch.manual_seed(1)
    name = settings["model"]
    if name in SHAPES:
        model, dictionary = _transformer_lm(settings["units"], **SHAPES[name])
    else:
        model, dictionary = _ours(name, settings["units"]), None
    return model.to(settings["device"]).to(getattr(torch, settings["dtype"])), dictionary


def _ours(name: str, units: int) -> Any:
    from fairseq.models import ARCH_CONFIG_REGISTRY

    from speechdlm_ext.data.unit_dictionary import UnitDictionary
    from speechdlm_ext.models.unit_lm import UnitLM, UnitLMConfig

    args = Namespace(durations=False)
    ARCH_CONFIG_REGISTRY[name](args)
    args = Namespace(**{**vars(UnitLMConfig()), **vars(args)})
    return UnitLM.build_model(args, Namespace(source_dictionary=UnitDictionary(units)))


def _transformer_lm(units: int, dim: int, layers: int, heads: int, hidden: int) -> tuple[Any, Any]:
    from fairseq.data import Dictionary
    from fairseq.models.transformer_lm import TransformerLanguageModel, base_lm_architecture

    dictionary = Dictionary()
    for unit in range(units):
        dictionary.add_symbol(str(unit))
    args = Namespace(
        decoder_embed_dim=dim,
        decoder_ffn_embed_dim=hidden,
        decoder_layers=layers,
        decoder_attention_heads=heads,
        dropout=0.1,
    )
    args.tokens_per_sample = args.max_target_positions = 2048
    base_lm_architecture(args)
    task = Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    return TransformerLanguageModel.build_model(args, task), dictionary


def timed(settings: dict[str, Any], action: Callable[[], object], units: int) -> Work:
    """What one round measures: the seconds of ``action`` over so many units."""
    from worker import peak_memory, wait

    def measure() -> dict[str, float]:
        wait(settings)
        start = time.perf_counter()
        action()
        wait(settings)
        return {"seconds": time.perf_counter() - start, "units": units, "memory": peak_memory(settings)}

    return measure
