"""Language models behind one interface: any causal model of transformers, or our own rotary decoder; caches, LoRA.

A backbone is a causal language model laid out as those of transformers: ``model`` (``embed_tokens``, ``layers``,
``norm``) and ``lm_head``. It may be wrapped by peft, and its ``embed_tokens`` may live elsewhere. Everything that
reads one goes through :func:`run_backbone` and :func:`predict_tokens`, which take embeddings.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from inspect import signature
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from speechdlm_ext.errors import InputError, one_line, optional_import
from speechdlm_ext.io.config import read_config
from speechdlm_ext.modules.cache import DecoderCache
from speechdlm_ext.modules.linear import LEAST_WEIGHTS, Linear
from speechdlm_ext.modules.rotary_lm import (
    ROTARY,
    RotaryConfig,
    RotaryDecoder,
    RotaryLM,
    attention_mask_of,
    rotary_config,
)
from speechdlm_ext.modules.weights import check_weights, read_safetensors

logger = logging.getLogger(__name__)

OWN_LLM = "llm_backbone"  # where the folder of a model has the configuration of its language model

# Where models of transformers keep their token embeddings, by model_type, if not in embed_tokens.
_EMBEDDINGS = {"gpt2": "wte", "gpt_neo": "wte", "gptj": "wte", "gpt_neox": "embed_in"}


def run_backbone(llm: nn.Module, embeddings: Tensor, mask: Tensor | None = None, cache: Any = None) -> Tensor:
    """States under the language model's head.

    Args:
        llm: a backbone, with or without a head.
        embeddings: of these positions, ``(B, T, D)``.
        mask: which positions are not padding, bool ``(B, past + T)``, those in the cache included; ``None``: all. What
            stands at padding is arbitrary; where padding stands on the left makes no difference elsewhere.
        cache: of :func:`make_cache`; it takes up these positions.

    Returns:
        ``(B, T, D)``.
    """
    states: Tensor = _call(decoder_of(llm), embeddings, mask, cache).last_hidden_state
    return states


def predict_tokens(
    llm: nn.Module, embeddings: Tensor, mask: Tensor | None = None, cache: Any = None, last: int = 0
) -> Tensor:
    """Logits ``(B, T, V)``, with ``last`` only those of the last positions; arguments as :func:`run_backbone`."""
    logits: Tensor = _call(unwrap(llm), embeddings, mask, cache, logits_to_keep=last).logits
    return logits


def _call(module: nn.Module, embeddings: Tensor, mask: Tensor | None, cache: Any, **more: Any) -> Any:
    if isinstance(module, (RotaryLM, RotaryDecoder)):
        return module(embeddings, attention_mask=mask, past_key_values=cache, **more)
    if mask is not None:  # absolute positions count from the first token, too
        more["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0)[:, -embeddings.size(1) :]
        # Of a mask (B, T) transformers asks the device whether there is padding at all.
        own = cache is None and _attends_to_all(module.config)
        more["attention_mask"] = attention_mask_of(mask, embeddings.size(1), None) if own else mask.long()
    kind: Any = type(module)
    more[_cache_name(kind)] = cache
    return module(inputs_embeds=embeddings, use_cache=cache is not None, **more)


def _attends_to_all(config: Any) -> bool:
    """Whether all layers attend to all earlier positions, by torch's attention."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    no_window = getattr(config, "sliding_window", None) is None and kinds == {"full_attention"}
    return no_window and getattr(config, "_attn_implementation", None) == "sdpa"


@lru_cache(maxsize=8)
def _cache_name(kind: Any) -> str:
    """What a model of transformers calls its cache: renamed in 5.2x."""
    return "cache" if "cache" in signature(kind.forward).parameters else "past_key_values"


def unwrap(llm: nn.Module) -> Any:
    """Without peft's wrapper; LoRA is inside the layers."""
    get = getattr(llm, "get_base_model", None)
    return llm if get is None else get()


def decoder_of(llm: nn.Module) -> Any:
    """The part of a backbone from embeddings to states: what is below the head."""
    llm = unwrap(llm)
    if isinstance(llm, (RotaryLM, RotaryDecoder)):
        return llm.model if isinstance(llm, RotaryLM) else llm
    base: Any = llm.base_model  # transformers' name for it; the model itself where it has no head
    return base


def config_of(llm: nn.Module) -> Any:
    """The configuration of a backbone, with ``vocab_size``, ``hidden_size`` and ``to_dict()``."""
    return decoder_of(llm).config


def check_length(llm: nn.Module, length: int) -> None:
    """Raise :class:`InputError` where there are more positions than the language model has."""
    most = getattr(config_of(llm), "max_position_embeddings", None)
    if most is not None and length > most:
        raise InputError(f"{length} positions, the language model has {most}: make the audio or the context shorter")


def take_embeddings(llm: nn.Module) -> nn.Module:
    """Move the token embeddings out of a backbone, as speech-text models have them; returns them.

    Raises:
        InputError: it keeps them in a place that is not known.
    """
    decoder = decoder_of(llm)
    name = _EMBEDDINGS.get(decoder.config.model_type, "embed_tokens")
    module = getattr(decoder, name, None)
    if not isinstance(module, nn.Module):
        raise InputError(f"{type(decoder).__name__}: no token embeddings ({name}) in this language model")
    delattr(decoder, name)
    return module


@contextmanager
def lend_embeddings(llm: nn.Module, embeddings: nn.Module) -> Iterator[None]:
    """Give a backbone its embeddings back for a while, for transformers' ``generate``."""
    decoder, kind = decoder_of(llm), _EMBEDDINGS.get(config_of(llm).model_type, "embed_tokens")
    setattr(decoder, kind, embeddings)
    try:
        yield
    finally:
        delattr(decoder, kind)


def make_cache(llm: nn.Module, capacity: int, rolling: bool = False) -> Any:
    """A cache for :func:`run_backbone`.

    Args:
        capacity: how many positions it holds (transformers' caches that do not roll grow as needed).
        rolling: a full cache forgets its oldest positions: each attends to itself and the ``capacity`` - 1 before it,
            so that memory and time per step stay constant. Only without padding.
    """
    decoder = decoder_of(llm)
    if isinstance(decoder, RotaryDecoder):
        return DecoderCache(capacity, device=decoder.norm.weight.device, rolling=rolling)
    from transformers.cache_utils import Cache, DynamicCache, DynamicSlidingWindowLayer

    if rolling:
        layers = decoder.config.get_text_config(decoder=True).num_hidden_layers
        return Cache(layers=[DynamicSlidingWindowLayer(sliding_window=capacity) for _ in range(layers)])
    return DynamicCache(config=decoder.config)


def load_backbone(
    source: str | os.PathLike[str] | Mapping[str, Any],
    weights: bool = True,
    beside: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Load or make a causal language model, in fp32 on the CPU.

    Args:
        source: a folder of transformers' or of :func:`save_backbone`; a ``.gguf`` file; a name on the Hugging Face
            hub; or a configuration, as in ``config.json``. See :func:`find_folder` for relative folders.
        weights: False for random ones, from the configuration alone.
        beside: folder of a model that names this one.

    Raises:
        InputError: it cannot be found or read, or transformers is needed and not installed.
    """
    if isinstance(source, Mapping):
        if source.get("model_type") == ROTARY:
            return RotaryLM(rotary_config(source, "the configuration"))
        return _from_transformers(None, source, weights=False)
    path = find_folder(source, beside)
    own = None if path is None else _own_config(path / "config.json")
    if own is None:
        return _from_transformers(str(path or source), None, weights)
    assert path is not None
    llm = RotaryLM(own)
    if weights:
        found = read_safetensors(path / "model.safetensors")
        check_weights(llm, found, str(path / "model.safetensors"))
        llm.load_state_dict(found)
    return llm


def save_backbone(llm: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write the configuration and the weights of a backbone, as :func:`load_backbone` reads them."""
    llm, folder = unwrap(llm), Path(folder)
    if not isinstance(llm, RotaryLM):
        llm.save_pretrained(folder)  # type: ignore[operator]
        return
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in llm.state_dict().items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(llm.config.to_dict(), indent=2) + "\n")


def find_folder(source: str | os.PathLike[str], beside: str | os.PathLike[str] | None = None) -> Path | None:
    """A folder or file by a path that is relative to the working directory, else to a model's folder or one above it.

    Returns:
        Its path; ``None`` where there is none, and ``source`` is a name.
    """
    places = [Path()]
    if beside is not None:
        folder = Path(beside).absolute()
        places += [folder, *folder.parents[:2]]
    return next((place / source for place in places if (place / source).exists()), None)


def _own_config(path: Path) -> RotaryConfig | None:
    values = read_config(path) if path.is_file() else {}
    return rotary_config(values, str(path)) if values.get("model_type") == ROTARY else None


def _from_transformers(path: str | None, config: Mapping[str, Any] | None, weights: bool) -> nn.Module:
    with optional_import(f"the language model {path or (config or {}).get('model_type')} needs transformers", "hf"):
        from transformers import AutoConfig, AutoModelForCausalLM
    options: dict[str, Any] = {"local_files_only": os.environ.get("SPEECHDLM_OFFLINE") == "1"}
    try:
        if path is None:
            values = dict(config or {})
            made = AutoConfig.for_model(values.pop("model_type"), **values)
            return _few_rows(AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval())
        if path.endswith(".gguf"):
            options["gguf_file"] = os.path.basename(path)
            path = os.path.dirname(os.path.abspath(path))
        if weights:  # no code of the repository is run, and pickles are read without running them
            llm = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options).eval()
            if "gguf_file" in options:  # in fp32 now, and can be saved
                llm.hf_quantizer = None
                vars(llm.config).pop("quantization_config", None)
            return _few_rows(llm)
        found = AutoConfig.from_pretrained(path, **options)
        return _few_rows(AutoModelForCausalLM.from_config(found, dtype=torch.float32).eval())
    except (OSError, ValueError, KeyError, ImportError, safetensors.SafetensorError) as error:
        raise InputError(f"{path or config}: no causal language model ({one_line(error)[:300]})") from None


def _few_rows(llm: nn.Module) -> nn.Module:
    """With large linear layers that decode by all threads of a processor; their weights and names stay."""
    for module in llm.modules():
        if type(module) is nn.Linear and module.weight.numel() >= LEAST_WEIGHTS:
            module.__class__ = Linear
    return llm


def add_lora(llm: nn.Module, options: Mapping[str, Any]) -> nn.Module:
    """Wrap a backbone with low-rank adapters (Hu et al. 2021) by peft: y = Wx + (alpha / r) B(Ax).

    Args:
        options: of peft's LoraConfig (``r``, ``lora_alpha``, ``lora_dropout``, ``target_modules``, …); by default
            adapters are on the projections of queries and values.

    Raises:
        InputError: peft is not installed, or does not take the options.
    """
    with optional_import("LoRA needs peft", "hf"):
        from peft import LoraConfig, get_peft_model
    options = dict(options)
    if isinstance(llm, (RotaryLM, RotaryDecoder)):
        options.pop("task_type", None)  # peft asks models of a task for methods of transformers
        options.setdefault("target_modules", ["wq", "wv"])
    try:
        wrapped: nn.Module = get_peft_model(llm, LoraConfig(**options))
    except (TypeError, ValueError) as error:
        raise InputError(f"lora {options}: {one_line(error)}") from None
    return wrapped


def freeze_parameters(model: nn.Module, freeze: Sequence[str], prevent: Sequence[str] = ()) -> list[str]:
    """Train all parameters but those that match a pattern of ``freeze`` and none of ``prevent``.

    Patterns are regular expressions from a name's beginning (``re.match``). One that matches no parameter or buffer is
    logged as a warning.

    Returns:
        The names of what is trained.

    Raises:
        InputError: a pattern is no regular expression, or there is one text in the place of a list.
    """
    if isinstance(freeze, str) or isinstance(prevent, str):
        raise InputError("freeze_params, prevent_freeze_params: lists of patterns are expected")
    compiled = {}
    for pattern in (*freeze, *prevent):
        try:
            compiled[pattern] = re.compile(pattern)
        except re.error as error:
            raise InputError(f"freeze pattern {pattern!r}: no regular expression ({error})") from None
    parameters = list(model.named_parameters(remove_duplicate=False))  # tied ones by all of their names
    names = [name for name, _ in parameters] + [name for name, _ in model.named_buffers()]
    for pattern, expression in compiled.items():
        if not any(map(expression.match, names)):
            logger.warning("freeze pattern %r matches nothing; names are like %s", pattern, names[0] if names else "-")
    frozen = {id(one) for name, one in parameters if any(compiled[pattern].match(name) for pattern in freeze)}
    kept = {id(one) for name, one in parameters if any(compiled[pattern].match(name) for pattern in prevent)}
    for _, parameter in parameters:
        parameter.requires_grad_(id(parameter) not in frozen or id(parameter) in kept)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
