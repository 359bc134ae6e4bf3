"""Published folders of models around a language model: its configuration, a tokenizer, weights, ``config.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from speechdlm_ext.data.llm_tokenizer import LLMTokenizer
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.config import write_json
from speechdlm_ext.io.nemo import NemoFile
from speechdlm_ext.modules.backbone import OWN_LLM, config_of

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZER = "tokenizer"  # in the header of the weights: a fingerprint
# What the public code writes beside the model's configuration.
PUBLISHED = {"model_type": "nemo_speechlm", "architectures": ["NeMoSpeechLMForConditionalGeneration"]}


def nemo_config(file: NemoFile) -> dict[str, Any]:
    """The model's configuration in a ``.nemo`` file, with the features of the NeMo that wrote it."""
    config = {key: value for key, value in file.config.items() if key not in ("target", "nemo_version")}
    return {**config, "perception": {"reflect": file.old_front_end, **(config.get("perception") or {})}}


def check_tokenizer(weights: Path, tokenizer: LLMTokenizer) -> None:
    """Raise :class:`InputError` where a file of weights was saved with another tokenizer; published ones do not say."""
    with safetensors.safe_open(weights, "pt") as file:
        saved = (file.metadata() or {}).get(TOKENIZER)
    if saved not in (None, tokenizer.fingerprint()):
        raise InputError(f"{weights}: saved with another tokenizer than that of {weights.parent}")


def write_folder(
    folder: str | os.PathLike[str],
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    llm: nn.Module,
    tokenizer: LLMTokenizer,
    overwrite: bool,
) -> None:
    """Write a model as the public code does; ``config.json`` comes last: a save that was killed leaves nothing to load.

    Raises:
        InputError: there is a model already, and not ``overwrite``.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if (folder / name).exists() and not overwrite:
            raise InputError(f"{folder / name} is there already: pass overwrite=True, or choose another folder")
    (folder / OWN_LLM).mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    tokenizer.save(folder)
    # Configurations of transformers hold a few objects that JSON does not know.
    write_json(folder / OWN_LLM / CONFIG, json.loads(json.dumps(config_of(llm).to_dict(), default=str)), sort_keys=True)
    with atomic_write(folder / WEIGHTS, "wb") as file:
        file.write(safetensors.torch.save(dict(weights), {"format": "pt", TOKENIZER: tokenizer.fingerprint()}))
    write_json(folder / CONFIG, {**config, **PUBLISHED}, sort_keys=True)
