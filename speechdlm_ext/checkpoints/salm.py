"""SALM as folders of ``save_pretrained`` (config.json, model.safetensors), ``.nemo`` files, checkpoints of fairseq."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from speechdlm_ext.checkpoints.speech_llm_folder import (
    CONFIG,
    PUBLISHED,
    WEIGHTS,
    check_tokenizer,
    nemo_config,
    write_folder,
)
from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError, one_line, optional_import
from speechdlm_ext.io.config import read_config
from speechdlm_ext.io.nemo import read_nemo, write_nemo
from speechdlm_ext.models.salm import SALM, SALMConfig
from speechdlm_ext.modules.backbone import OWN_LLM
from speechdlm_ext.modules.weights import check_finite, check_weights, read_safetensors
from speechdlm_ext.tasks.salm_task import SALMTask, SALMTaskConfig

NEMO = {"target": "nemo.collections.speechlm2.models.salm.SALM", "nemo_version": "3.0.0"}


def load_salm(path_or_name: str | os.PathLike[str], trust: bool | None = None) -> SALM:
    """Load a model in evaluation mode, in fp32 on the CPU.

    Args:
        path_or_name: a folder of ``save_pretrained``, a ``.nemo`` file, a checkpoint of fairseq-train, or a name on
            the Hugging Face hub.
        trust: whether loading may run code that is in a pickle; see :func:`.load_checkpoint`.

    Raises:
        InputError: it is missing, damaged, of another model, or its language model is missing.
    """
    path = Path(path_or_name)
    if path.suffix == ".nemo" and path.is_file():
        file = read_nemo(path)
        file.expect("SALM")
        model = SALM({**nemo_config(file), "pretrained_weights": False}, path.parent)
        return _with_weights(model, file.weights, str(path))
    if path.is_file():
        return _from_fairseq(path, trust)
    if not path.is_dir():
        path = _download(os.fspath(path_or_name))
    if not (path / CONFIG).is_file():
        raise InputError(f"{path}: no {CONFIG} in it; expected a folder of save_pretrained")
    cfg = {key: value for key, value in read_config(path / CONFIG, "model").items() if key not in PUBLISHED}
    model = SALM({**cfg, "pretrained_weights": False}, path)
    weights = read_safetensors(path / WEIGHTS)
    check_tokenizer(path / WEIGHTS, model.tokenizer)
    return _with_weights(model, weights, str(path / WEIGHTS))


def save_salm(model: SALM, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a published folder; see :func:`.write_folder`."""
    config = {**model.cfg, "pretrained_weights": False}
    write_folder(folder, config, _untied(model), model.llm, model.tokenizer, overwrite)


def save_salm_nemo(model: SALM, path: str | os.PathLike[str]) -> None:
    """Write a ``.nemo`` file; the language model's configuration and tokenizer stay where ``pretrained_llm`` says."""
    cfg = {**model.origin()["config"], "pretrained_weights": False, **NEMO}
    write_nemo(path, cfg, _untied(model))


def _with_weights(model: SALM, weights: dict[str, Tensor], where: str) -> SALM:
    """Take all weights, strictly; of tied ones, one of each."""
    for names in _shared(model):
        kept = next((name for name in names if name in weights), None)
        if kept is not None:
            weights.update({name: weights[kept] for name in names if name not in weights})
    # Of the features only: older files lack them, and they are the same everywhere.
    for name, buffer in model.named_buffers():
        if name.startswith("perception.preprocessor.") and name not in weights:
            weights[name] = buffer
    check_weights(model, weights, where)
    model.load_state_dict(weights)
    check_finite(model, where)
    return model.eval()


def _shared(model: SALM) -> list[list[str]]:
    """Names of the same tensor, where there are several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [sorted(group) for group in names.values() if len(group) > 1]


def _untied(model: SALM) -> dict[str, Tensor]:
    """All weights, tied ones once."""
    kept, model.save_trained_only = model.save_trained_only, False
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    model.save_trained_only = kept
    for names in _shared(model):
        for name in names[1:]:
            del weights[name]
    return weights


def _from_fairseq(path: Path, trust: bool | None) -> SALM:
    state = load_checkpoint(path, trust=trust)
    options = state.get("cfg") and state["cfg"]["model"]
    origin = (state.get("task_state") or {}).get("salm")
    if not options or options.get("_name") != "salm" or origin is None:
        raise InputError(f"{path}: no checkpoint of a salm model of fairseq-train")
    args = SALMConfig(
        **{key: options[key] for key in SALMConfig.__dataclass_fields__ if key in options and key != "_name"}
    )
    task = SALMTask(SALMTaskConfig())
    task.load_state_dict({"salm": origin})
    try:
        model = SALM.build_model(args, task)
    except InputError as error:
        rest = origin["start"] or origin["config"]["pretrained_llm"]
        raise InputError(f"{path}: its frozen weights are in {rest}: {error}") from None
    model.load_state_dict(state["model"], model_cfg=args)
    check_finite(model, str(path))
    model.save_trained_only = False
    return model.eval()


def _download(name: str) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise InputError(f"{name}: no such folder or file")
    with optional_import(f"{name}: a name on the hub needs transformers", "hf"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    try:
        patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", f"{OWN_LLM}/*"]
        offline = os.environ.get("SPEECHDLM_OFFLINE") == "1"
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=offline))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise InputError(f"{name}: no such folder, and it cannot be downloaded ({one_line(error)[:200]})") from None
