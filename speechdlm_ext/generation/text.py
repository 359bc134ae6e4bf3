"""Text from a language model that reads embeddings: transformers' ``generate``, or a loop for our own decoder."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.filters import top_k_filter, top_p_filter
from speechdlm_ext.modules.backbone import lend_embeddings, make_cache, predict_tokens, unwrap
from speechdlm_ext.modules.rotary_lm import RotaryLM

MAX_NEW_TOKENS = 128  # where nothing else is said


class SpecialIds(NamedTuple):
    """Ids of special tokens."""

    bos: int | None
    eos: int | None
    pad: int


@torch.no_grad()
def generate_text(
    llm: nn.Module,
    embed_tokens: nn.Module,
    special: SpecialIds,
    embeddings: Tensor | None,
    mask: Tensor,
    ids: Tensor | None = None,
    generation_config: Any = None,
    **options: Any,
) -> Tensor:
    """Continue prompts.

    Args:
        llm: a backbone without its embeddings, which are ``embed_tokens``.
        embeddings: of the prompts, padded on the left, ``(B, T, H)``; or ``ids`` ``(B, T)``.
        mask: what is no padding, bool ``(B, T)``.
        generation_config: transformers' ``GenerationConfig``, or a mapping; None is greedy.
        options: of it, which take precedence: ``max_new_tokens`` (128), ``do_sample``, ``temperature``, ``top_k``,
            ``top_p``, ``eos_token_id``; with transformers also all others, with our decoder also ``seed``.

    Returns:
        Ids ``(B, n)``, filled with the padding id behind each row's end; with ``ids`` the prompts come first.

    Raises:
        InputError: an option that our decoder does not have.
    """
    model = unwrap(llm)
    if isinstance(model, RotaryLM):
        given = embed_tokens(ids) if embeddings is None else embeddings
        found = _decode(llm, embed_tokens, special, given, mask, _own_options(generation_config, options, special))
        return found if embeddings is not None or ids is None else torch.cat([ids, found], 1)
    from transformers import GenerationConfig

    if generation_config is None or isinstance(generation_config, Mapping):
        generation_config = GenerationConfig(
            **{"bos_token_id": special.bos, "eos_token_id": special.eos, "pad_token_id": special.pad}
            | {"max_new_tokens": MAX_NEW_TOKENS}
            | dict(generation_config or {})
        )
    else:
        generation_config = deepcopy(generation_config)
    options = generation_config.update(**options)  # what is left are arguments of generate
    inputs = {"inputs": ids} if embeddings is None else {"inputs_embeds": embeddings}
    with lend_embeddings(llm, embed_tokens):
        generated: Tensor = model.generate(
            **inputs, attention_mask=mask.long(), generation_config=generation_config, **options
        )
    return generated


_DEFAULTS = {
    "max_new_tokens": MAX_NEW_TOKENS, "do_sample": False, "temperature": 1.0, "top_k": None, "top_p": None, "seed": 1,
    "eos_token_id": None, "bos_token_id": None, "pad_token_id": None,
}  # fmt: skip


def _own_options(config: Any, options: Mapping[str, Any], special: SpecialIds) -> dict[str, Any]:
    """The options of :func:`_decode`: defaults, what a configuration says, what a call says."""
    if config is not None and not isinstance(config, Mapping):
        config = {name: getattr(config, name) for name in _DEFAULTS if getattr(config, name, None) is not None}
    merged = {**_DEFAULTS, **(config or {}), **options}
    if unknown := sorted(set(merged) - set(_DEFAULTS)):
        raise InputError(f"generation: {unknown[0]} needs a language model of transformers")
    if not merged["max_new_tokens"] > 0 or not merged["temperature"] > 0:
        raise InputError("generation: max_new_tokens and temperature are expected above 0")
    eos = special.eos if merged["eos_token_id"] is None else merged["eos_token_id"]
    merged["ends"] = [] if eos is None else eos if isinstance(eos, list) else [eos]
    return merged


def _decode(
    llm: nn.Module,
    embed_tokens: nn.Module,
    special: SpecialIds,
    x: Tensor,
    mask: Tensor,
    options: Mapping[str, Any],
) -> Tensor:
    """Greedy, or each row sampled by its own random numbers."""
    rows, count = len(x), options["max_new_tokens"]
    cache = make_cache(llm, x.size(1) + count)
    random = [np.random.default_rng(np.random.SeedSequence((options["seed"], row, 0))) for row in range(rows)]
    ends = torch.tensor(options["ends"], dtype=torch.long, device=x.device)
    done = torch.zeros(rows, dtype=torch.bool, device=x.device)
    found = []
    for _ in range(count):
        logits = predict_tokens(llm, x, mask, cache, last=1)[:, -1].float()  # (B, V)
        token = _sample(logits, options, random) if options["do_sample"] else logits.argmax(-1)
        found.append(token.masked_fill(done, special.pad))
        done = done | torch.isin(token, ends)
        if bool(done.all()):  # once a step: what ends a batch is on the device
            break
        x, mask = embed_tokens(found[-1].unsqueeze(1)), torch.cat([mask, mask.new_ones(rows, 1)], 1)
    return torch.stack(found, 1)


def _sample(logits: Tensor, options: Mapping[str, Any], random: list[np.random.Generator]) -> Tensor:
    logprobs = (logits / options["temperature"]).log_softmax(-1)
    if options["top_k"]:
        logprobs = top_k_filter(logprobs, options["top_k"])
    if options["top_p"]:
        logprobs = top_p_filter(logprobs, options["top_p"])
    sums = logprobs.softmax(-1).double().cumsum(-1)
    at = torch.tensor([one.random() for one in random], dtype=torch.float64, device=logits.device)
    return torch.searchsorted(sums, at.unsqueeze(1) * sums[:, -1:]).squeeze(1).clamp_max(logits.size(-1) - 1)
