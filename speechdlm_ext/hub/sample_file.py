"""Continuing the prompts of a unit file, batch by batch, so that it can be stopped and started again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.options import DecodingOptions
from speechdlm_ext.generation.search import row_seed
from speechdlm_ext.hub import DialogueModel, UnitModel
from speechdlm_ext.hub.prompts import DialoguePrompts, Prompts, SequencePrompts
from speechdlm_ext.hub.sampling import FrameProgress, check_free
from speechdlm_ext.io.resume_log import ResumeLog
from speechdlm_ext.io.sharding import Shard
from speechdlm_ext.units.files import read_unit_file, write_unit_file


def continue_unit_file(
    model: DialogueModel | UnitModel,
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
    channel: str | None = None,
    shard: Shard | None = None,
) -> list[dict[str, Any]]:
    """Continue every dialogue of a unit file, or every sequence with a model of one channel.

    Sample k of row i has random numbers of its own, of (seed, i, k), whatever the batches are. Results are kept in
    ``OUTPUT.partial`` as they come; the output appears when all are there.

    Args:
        prompts: unit file; fields other than the channels are carried over.
        output: unit file of prompts with their continuations, and ``prompt_frames`` (of a model of one channel
            ``prompt_units``, and ``ended``: by itself and not by a greatest length), ``seed`` and ``score``.
        samples: continuations of each row; above 1 their ids end in ``-s1``, ``-s2``, …
        prompt_frames: cut each dialogue to its first frames, or each sequence to its first units; ``None`` for all.
        condition_on: a channel that is given in full; the others are cut, and continued beside it.
        made_by: what else the results depend on (the checkpoint), to tell whether an interrupted run was the same.
        overwrite: replace an output that is there.
        progress: called with the number of frames done since the last call.
        say: called with lines of text for the user.
        channel: the one to continue with a model of one channel (default: the only one in a row).
        shard: continue its batches alone, into its own file; :func:`.merge` joins them.

    Returns:
        The rows of the output.

    Raises:
        InputError: the output is there already; a prompt that the model cannot take.
    """
    output = Path(output) if shard is None else shard.path(output)
    if output.exists() and not overwrite:
        raise InputError(f"{output} is there already: pass --overwrite to replace it")
    if samples < 1 or batch_size < 1:
        raise InputError(f"--samples {samples} --batch-size {batch_size}: 1 or more is expected")
    if prompt_frames is not None and prompt_frames < 0:
        raise InputError(f"--prompt-frames {prompt_frames}: 0 or more is expected")
    kind: Prompts
    if isinstance(model, DialogueModel):
        if channel is not None:
            raise InputError("--channel is for models of one channel; this one is of dialogues")
        kind = DialoguePrompts(model, prompt_frames, condition_on)
    else:
        if condition_on is not None:
            raise InputError("--condition-on is for models of dialogues; this one is of one channel")
        kind = SequencePrompts(model, prompt_frames, channel)
    jobs = _jobs(read_unit_file(prompts), kind, seed, samples)
    if shard is not None:  # by batches: sums over other batches would differ in their last digits
        batches = [jobs[start : start + batch_size] for start in range(0, len(jobs), batch_size)]
        jobs = [job for batch in shard.take(batches) for job in batch]
    # All of them before the first is continued: hours of work should not end at a unit that nobody knows.
    encoded = [kind.encode(job) for job in jobs]
    durations = [kind.durations(job) for job in jobs]
    limits = [options.limit(len(prompt)) for prompt in encoded]
    for job, frames in zip(jobs, durations, strict=True):
        if options.max_frames is not None and int(frames.sum()) > options.max_frames:
            raise InputError(
                f"row {job['audio']}: the prompt lasts for {int(frames.sum())} frames, {options.max_frames} are "
                "allowed in all, prompt included: raise --max-seconds, or cut it with --prompt-units"
            )
    if isinstance(model, DialogueModel) and condition_on is not None:
        check_free(encoded, options, (model.task.dictionary.pad(), model.task.dictionary.unk()))
    settings = {"options": vars(options), "made_by": dict(made_by or {}), "batch_size": batch_size, "jobs": jobs}
    settings.update({"condition_on": condition_on} if condition_on else {})
    settings.update({"channel": channel} if channel else {})
    with ResumeLog(output.with_name(output.name + ".partial"), settings) as journal:
        if journal.dropped:
            say(f"{journal.path}: made with other settings, starting over")
        for start in range(0, len(jobs), batch_size):
            batch = slice(start, start + batch_size)
            if all(job["audio"] in journal.entries for job in jobs[batch]):
                progress(sum(limits[batch]))
            else:
                with FrameProgress(limits[batch], progress) as report:
                    rows = _continue_batch(model, kind, jobs[batch], encoded[batch], durations[batch], options, report)
                for row in rows:
                    journal.add(row["audio"], row)
        results = [journal.entries[job["audio"]] for job in jobs]
        write_unit_file(output, results)
        journal.remove()
    return results


def _jobs(rows: Sequence[Mapping[str, Any]], kind: Prompts, seed: int, samples: int) -> list[dict[str, Any]]:
    """One row for each sample of each row: its prompt, its id and its seed."""
    jobs = []
    for number, row in enumerate(rows):
        name = str(row.get("audio", number + 1))
        cut = kind.cut(row, name)
        for sample in range(samples):
            jobs.append(
                {
                    **row,
                    **cut,
                    "audio": f"{name}-s{sample + 1}" if samples > 1 else name,
                    "seed": list(row_seed(seed, number, sample)),
                }
            )
    names = [job["audio"] for job in jobs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two dialogues have the id {twice}: give each row its own")
    return jobs


def _continue_batch(
    model: DialogueModel | UnitModel,
    kind: Prompts,
    batch: Sequence[Mapping[str, Any]],
    prompts: Sequence[Tensor],
    durations: Sequence[Tensor],
    options: DecodingOptions,
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:
    found = model.generate(prompts, options, [row_seed(*job["seed"]) for job in batch], progress, durations)
    return [kind.answer(job, hypotheses[0]) for job, hypotheses in zip(batch, found, strict=True)]
