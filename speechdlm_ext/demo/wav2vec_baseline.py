"""fairseq's wav2vec 2.0 with CTC from scratch, of the size of the small QuartzNet, on the same digits: a baseline."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechdlm_ext.demo.run import Step, fairseq
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.manifest import read_jsonl

LAST = "6-wav2vec-validate"
_NAMES = ("train", "valid", "test")
# 360,820 parameters, a frame every 20 ms at 8 kHz.
_MODEL: dict[str, Any] = {
    "_name": "wav2vec2", "extractor_mode": "layer_norm",
    "conv_feature_layers": "[(64, 10, 5)] + [(64, 3, 2)] * 3 + [(64, 2, 2)] * 2",
    "encoder_layers": 2, "encoder_embed_dim": 96, "encoder_ffn_embed_dim": 384, "encoder_attention_heads": 4,
    "final_dim": 96, "layer_norm_first": True, "conv_pos": 64, "conv_pos_groups": 8,
}  # fmt: skip


def prepare(corpus: Path, folder: Path, sample_rate: int) -> None:
    """Write the corpus as fairseq's ``audio_finetuning`` reads it, and options of the model as a checkpoint."""
    import torch
    from omegaconf import OmegaConf

    for name in _NAMES:
        if not (corpus / f"{name}.json").exists():
            continue
        rows = read_jsonl(corpus / f"{name}.json")
        with atomic_write(folder / f"{name}.tsv") as file:
            file.write("/\n")
            file.writelines(f"{row['audio_filepath']}\t{round(row['duration'] * sample_rate)}\n" for row in rows)
        with atomic_write(folder / f"{name}.ltr") as file:
            file.writelines(" ".join(row["text"].replace(" ", "|")) + " |\n" for row in rows)
    with atomic_write(folder / "dict.ltr.txt") as file:
        file.write((corpus / "dict.ltr.txt").read_text(encoding="utf-8"))
    task = {"_name": "audio_pretraining", "data": str(folder), "sample_rate": sample_rate, "normalize": True}
    options = {"task": task, "model": _MODEL, "criterion": None, "lr_scheduler": None}
    state = {
        "args": None, "cfg": OmegaConf.create(options), "model": {},
        "optimizer_history": [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
        "extra_state": {"train_iterator": {"epoch": 1}}, "last_optimizer_state": None,
    }  # fmt: skip
    with atomic_write(folder / "options.pt", mode="wb") as file:
        torch.save(state, file)


def train_command(folder: Path, sample_rate: int, batch_size: int, seconds: float, seed: int) -> list[str]:
    """``fairseq-train`` for so many seconds, by the published recipe of fine-tuning but for the rates."""
    command = [fairseq("fairseq-train"), str(folder), "--task", "audio_finetuning", "--labels", "ltr", "--normalize"]
    command += ["--sample-rate", str(sample_rate), "--arch", "wav2vec_ctc", "--w2v-path", str(folder / "options.pt")]
    command += ["--no-pretrained-weights", "--feature-grad-mult", "1", "--layerdrop", "0", "--final-dropout", "0.1"]
    command += ["--mask-prob", "0.2", "--mask-length", "5", "--apply-mask", "--mask-channel-prob", "0.05"]
    command += ["--mask-channel-length", "8", "--criterion", "ctc", "--zero-infinity", "--post-process", "letter"]
    command += ["--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--weight-decay", "0.01", "--clip-norm", "5"]
    command += ["--lr", "0.001", "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "200"]
    command += ["--stop-time-hours", f"{seconds / 3600:.4f}", "--max-update", "1000000"]
    command += ["--batch-size", str(batch_size), "--max-tokens", str(batch_size * 8 * sample_rate)]
    command += ["--best-checkpoint-metric", "wer"]
    command += ["--no-epoch-checkpoints", "--save-interval", "1000000", "--validate-interval", "1000000"]
    command += ["--save-interval-updates", "100", "--keep-interval-updates", "1", "--validate-interval-updates", "100"]
    command += ["--log-format", "simple", "--log-interval", "10", "--num-workers", "0", "--cpu", "--seed", str(seed)]
    return command


def steps(
    corpus: Path, folder: Path, split: str, sample_rate: int, batch_size: int, seconds: float, seed: int
) -> Iterator[Step]:
    """Train for as many ``seconds`` as the model that it is compared with, and validate on ``split``."""
    prepare(corpus, folder / "data", sample_rate)
    title = f"Train fairseq's wav2vec 2.0 with CTC for {seconds:.0f} s"
    command = train_command(folder / "data", sample_rate, batch_size, seconds, seed)
    command += ["--save-dir", str(folder / "checkpoints")]
    yield Step("5-wav2vec", title, command, [folder / "checkpoints"], resumes=True)
    command = [fairseq("fairseq-validate"), str(folder / "data"), "--task", "audio_finetuning", "--labels", "ltr"]
    command += ["--path", str(folder / "checkpoints" / "checkpoint_best.pt"), "--valid-subset", split, "--normalize"]
    command += ["--sample-rate", str(sample_rate), "--batch-size", str(batch_size), "--cpu", "--log-format", "simple"]
    yield Step(LAST, "Its word error rate on the same recordings", command, [])


def word_error_rate(log: Path) -> float:
    """The last WER, in percent, of a log of ``fairseq-validate``; raises :class:`InputError` where there is none."""
    found = re.findall(r"\bwer ([0-9.]+)", log.read_text(encoding="utf-8"))
    if not found:
        raise InputError(f"{log}: no WER of fairseq-validate")
    return float(found[-1])
