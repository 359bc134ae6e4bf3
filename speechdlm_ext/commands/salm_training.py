"""A published training configuration of SALM (model, data, trainer, exp_manager) as fairseq-train's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError

# Sections and keys of a configuration, and fairseq's option for each.
_OPTIONS = {
    "trainer": {
        "max_steps": "--max-update",
        "max_epochs": "--max-epoch",
        "gradient_clip_val": "--clip-norm",
        "accumulate_grad_batches": "--update-freq",
        "log_every_n_steps": "--log-interval",
        "val_check_interval": "--validate-interval-updates",
    },
    "optimizer": {"lr": "--lr", "betas": "--adam-betas", "weight_decay": "--weight-decay", "eps": "--adam-eps"},
    "lr_scheduler": {"warmup_steps": "--warmup-updates", "warmup_ratio": "--warmup-ratio", "min_lr": "--min-lr"},
    "train_ds": {
        "batch_size": "--batch-size",
        "batch_duration": "--batch-seconds",
        "batch_tokens": "--max-tokens",
        "num_workers": "--num-workers",
        "seed": "--seed",
    },
}
_PRECISIONS = {"bf16": "--bf16", "16": "--fp16"}


def training_arguments(config: Mapping[str, Any], path: Path, user_dir: str) -> list[str]:
    """The arguments.

    Args:
        config: plain values, written to ``path`` already.
        path: from which the task and the model read their sections.
        user_dir: of this package.

    Raises:
        InputError: a section is missing, or asks for an optimizer or scheduler that is not known here.
    """
    for name in ("model", "data"):
        if not isinstance(config.get(name), Mapping):
            raise InputError(f"no section {name} in the configuration")
    model, data, trainer = config["model"], config["data"], config.get("trainer") or {}
    optimizer, scheduler = model.get("optimizer") or {}, model.get("lr_scheduler") or {}
    _expect(optimizer, ("AdamW", "Adam"), "optimizer")
    _expect(scheduler, ("CosineAnnealing",), "lr_scheduler")
    folder = Path((config.get("exp_manager") or {}).get("exp_dir") or "exp") / "checkpoints"
    words = [str(path), "--user-dir", user_dir, "--task", "salm_task", "--arch", "salm"]
    words += ["--criterion", "salm_criterion", "--model-config", str(path), "--save-dir", str(folder)]
    words += ["--no-epoch-checkpoints", "--optimizer", "adam", "--ignore-unused-valid-subsets"]  # it is no folder
    words += ["--lr-scheduler", "cosine_annealing" if scheduler else "fixed"]
    training = data.get("train_ds") or {}
    sections = {"trainer": trainer, "optimizer": optimizer, "lr_scheduler": scheduler, "train_ds": training}
    for section, names in _OPTIONS.items():
        for name, option in names.items():
            value = sections[section].get(name)
            if value not in (None, -1) and not (name == "val_check_interval" and value < 1):
                words += [option, f"({','.join(map(str, value))})" if isinstance(value, list) else str(value)]
    precision = str(trainer.get("precision") or "32").partition("-")[0]
    words += [_PRECISIONS[precision]] if precision in _PRECISIONS else []
    words += ["--cpu"] if trainer.get("accelerator") == "cpu" else []
    sets = (data.get("validation_ds") or {}).get("datasets") or {"valid": {}}
    return [*words, *(["--valid-subset", ",".join(sets)] if data.get("validation_ds") else ["--disable-validation"])]


def _expect(section: Mapping[str, Any], kinds: tuple[str, ...], name: str) -> None:
    kind = str(section.get("_target_", kinds[0])).rpartition(".")[2]
    if kind not in kinds:
        raise InputError(f"{name}: {kind}; expected {' or '.join(kinds)}; others by fairseq-train itself")
