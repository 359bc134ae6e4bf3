"""Full-Duplex-Bench (Lin et al. 2025): its folders, and those of its measures that follow from speech activity alone.

A sample is a folder with ``input.wav``, the user's speech, and ``output.wav``, the model's at the same time.
The benchmark itself aligns words; here an interval of speech of at most one second counts as a backchannel, as a longer
one takes the turn.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechdlm_ext.evaluation.corpus import INPUT_OUTPUT, Dialogue, dialogue_blocks
from speechdlm_ext.evaluation.eval_set import EvalSet
from speechdlm_ext.io.audio import audio_info, write_audio
from speechdlm_ext.metrics.events import EventList
from speechdlm_ext.metrics.turn_taking import TurnTakingOptions

# What a language model judges, or what the benchmark's own recordings are needed for.
LEFT_OUT = (
    "relevance of the answer after an interruption (judged by GPT-4o)",
    "Jensen–Shannon divergence of the times of backchannels (from the benchmark's human ones)",
)


def write_layout(dialogues: Sequence[Dialogue], folder: Path) -> list[tuple[str, str]]:
    """Write the two channels of each dialogue as ``FOLDER/<name>/input.wav`` and ``output.wav``; those there are kept.

    Returns:
        (name, reason) of the dialogues that could not be written.
    """
    import torch

    left_out = []
    for dialogue in dialogues:
        files = [folder / dialogue.name / name for name in INPUT_OUTPUT]
        if [Path(file).resolve() for file in dialogue.files] == [file.resolve() for file in files]:
            continue
        if all(file.is_file() for file in files):
            continue
        if not dialogue.files:
            left_out.append((dialogue.name, "it has no sound"))
            continue
        rate = max(audio_info(file).sample_rate for file in dialogue.files)
        wave = torch.cat(list(dialogue_blocks(dialogue, rate)), dim=1)
        if len(wave) != 2:
            left_out.append((dialogue.name, f"expected two channels, user and model; it has {len(wave)}"))
            continue
        for channel, file in zip(wave, files, strict=True):
            write_audio(file, channel, rate)
    return left_out


def timing_figures(side: EvalSet, options: TurnTakingOptions) -> dict[str, Any]:
    """The measures of timing, of all samples and of each task (the first folder in their names).

    Returns:
        By ``all`` and task: ``samples`` (in which the user speaks, and that have two channels); ``take_over_rate``,
        share of them in which the model speaks for more than a backchannel after the user has ended; ``latency`` (s),
        mean and ``median_latency`` from the user's end to that, where the model did not begin before;
        ``early_take_over_rate``, share in which the model takes the turn before the user has ended, as in pauses;
        ``backchannel_frequency``, backchannels a second of the user's turn; ``reason``. ``not_computed`` names what
        else the benchmark measures.
    """
    tasks: dict[str, list[dict[str, Any]]] = {"all": []}
    for number, dialogue in enumerate(side.dialogues):
        if side.events.channel_counts[number] != 2:
            continue
        ipus = side.events.ipus
        own = ipus.conversation == number
        sample = _sample(_spans(ipus, own, 0), _spans(ipus, own, 1), options)
        task = dialogue.name.split("/")[0] if "/" in dialogue.name else "all"
        for group in {"all", task}:
            tasks.setdefault(group, []).extend([] if sample is None else [sample])
    return {**{task: _pool(samples) for task, samples in tasks.items()}, "not_computed": list(LEFT_OUT)}


def _spans(ipus: EventList, own: np.ndarray, channel: int) -> np.ndarray:
    chosen = own & ipus.channels[:, channel]
    return np.stack([ipus.start[chosen], ipus.end[chosen]], axis=1)


def _sample(user: np.ndarray, model: np.ndarray, options: TurnTakingOptions) -> dict[str, Any] | None:
    if not len(user):
        return None
    begin, end = user[0, 0], user[-1, 1]
    longer = model[:, 1] - model[:, 0] > options.max_backchannel
    after = model[longer & (model[:, 0] >= end)]
    during = model[longer & (model[:, 0] >= begin) & (model[:, 0] < end)]
    listening = model[~longer & (model[:, 0] >= begin) & (model[:, 0] < end)]
    still = during[during[:, 1] > end]
    return {
        "takes_over": bool(len(after) or len(still)),
        "latency": float(after[0, 0] - end) if len(after) and not len(still) else None,
        "early": bool(len(during)),
        "backchannels": len(listening),
        "seconds": float(end - begin),
    }


def _pool(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    latencies = [sample["latency"] for sample in samples if sample["latency"] is not None]
    count, seconds = len(samples), sum(sample["seconds"] for sample in samples)
    reason = "the user says nothing" if not samples else None if latencies else "the model never answers after the user"
    return {
        "samples": count,
        "take_over_rate": sum(sample["takes_over"] for sample in samples) / count if count else None,
        "latency": statistics.fmean(latencies) if latencies else None,
        "median_latency": statistics.median(latencies) if latencies else None,
        "early_take_over_rate": sum(sample["early"] for sample in samples) / count if count else None,
        "backchannel_frequency": sum(sample["backchannels"] for sample in samples) / seconds if seconds else None,
        "reason": reason,
    }
