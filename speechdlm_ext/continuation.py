"""Continuing the prompts of a unit file, batch by batch, so that it can be stopped and started again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.options import DecodingOptions
from speechdlm_ext.hub import DialogueModel
from speechdlm_ext.hub.dialogues import channel_texts, column
from speechdlm_ext.hub.sampling import FrameProgress, check_free
from speechdlm_ext.journal import Journal
from speechdlm_ext.units.files import read_unit_file, write_unit_file


def continue_unit_file(
    model: DialogueModel,
    prompts: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: DecodingOptions,
    seed: int,
    samples: int = 1,
    prompt_frames: int | None = None,
    condition_on: str | None = None,
    batch_size: int = 8,
    made_by: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[int], object] = lambda frames: None,
    say: Callable[[str], object] = print,
) -> list[dict[str, Any]]:
    """Continue every dialogue of a unit file.

    Sample k of dialogue i has the seed ``seed + i · samples + k``, whatever the batches are. Results are kept in
    ``OUTPUT.partial`` as they come; the output appears when all are there.

    Args:
        prompts: unit file; fields other than the channels are carried over.
        output: unit file of prompts with their continuations, and ``prompt_frames``, ``seed`` and ``score``.
        samples: continuations of each dialogue; above 1 their ids end in ``-s1``, ``-s2``, …
        prompt_frames: cut each dialogue to its first frames; ``None`` for all of it.
        condition_on: a channel that is given in full; the others are cut, and continued beside it.
        made_by: what else the results depend on (the checkpoint), to tell whether an interrupted run was the same.
        overwrite: replace an output that is there.
        progress: called with the number of frames done since the last call.
        say: called with lines of text for the user.

    Returns:
        The rows of the output.

    Raises:
        InputError: the output is there already; a prompt that the model cannot take.
    """
    output = Path(output)
    if output.exists() and not overwrite:
        raise InputError(f"{output} is there already: pass --overwrite to replace it")
    if samples < 1 or batch_size < 1:
        raise InputError(f"--samples {samples} --batch-size {batch_size}: 1 or more is wanted")
    column(model.task.dictionary, condition_on)
    jobs = _jobs(read_unit_file(prompts), model.channels, seed, samples, prompt_frames, condition_on)
    # All of them before the first is continued: hours of work should not end at a unit that nobody knows.
    encoded = [model.encode(job, f"dialogue {job['audio']}", condition_on) for job in jobs]
    limits = [options.limit(len(prompt)) for prompt in encoded]
    if condition_on is not None:
        check_free(encoded, options, (model.task.dictionary.pad(), model.task.dictionary.unk()))
    settings = {"options": vars(options), "made_by": dict(made_by or {}), "batch_size": batch_size, "jobs": jobs}
    settings.update({"condition_on": condition_on} if condition_on else {})
    with Journal(output.with_name(output.name + ".partial"), settings) as journal:
        if journal.dropped:
            say(f"{journal.path}: made with other settings, starting over")
        for start in range(0, len(jobs), batch_size):
            batch = slice(start, start + batch_size)
            if all(job["audio"] in journal.entries for job in jobs[batch]):
                progress(sum(limits[batch]))
            else:
                with FrameProgress(limits[batch], progress) as report:
                    rows = _continue_batch(model, jobs[batch], encoded[batch], options, report)
                for row in rows:
                    journal.add(row["audio"], row)
        results = [journal.entries[job["audio"]] for job in jobs]
        write_unit_file(output, results)
        journal.remove()
    return results


def _jobs(
    rows: Sequence[Mapping[str, Any]],
    channels: Sequence[str],
    seed: int,
    samples: int,
    frames: int | None,
    condition_on: str | None,
) -> list[dict[str, Any]]:
    """One row for each sample of each dialogue: its prompt, its id and its seed."""
    jobs = []
    for number, row in enumerate(rows):
        name = str(row.get("audio", number + 1))
        texts = channel_texts(row, channels, f"dialogue {name}")
        cut = {
            channel: text.split()[: None if channel == condition_on else frames]
            for channel, text in zip(channels, texts, strict=True)
        }
        shortest = min(len(units) for channel, units in cut.items() if channel != condition_on)
        needed = int(condition_on is None) if frames is None else frames
        if shortest < needed:
            raise InputError(f"dialogue {name}: {shortest} frames, {needed} are needed for the prompt")
        for sample in range(samples):
            jobs.append(
                {
                    **row,
                    **{channel: " ".join(units) for channel, units in cut.items()},
                    "audio": f"{name}-s{sample + 1}" if samples > 1 else name,
                    "prompt_frames": shortest,
                    "seed": seed + number * samples + sample,
                }
            )
    names = [job["audio"] for job in jobs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two dialogues have the id {twice}: give each row its own")
    return jobs


def _continue_batch(
    model: DialogueModel,
    batch: Sequence[Mapping[str, Any]],
    prompts: Sequence[Tensor],
    options: DecodingOptions,
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:
    found = model.generate(prompts, options, [job["seed"] for job in batch], progress)
    return [
        {**job, **model.decode(hypotheses[0].units), "score": round(hypotheses[0].score, 6)}
        for job, hypotheses in zip(batch, found, strict=True)
    ]
