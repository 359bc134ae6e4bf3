"""The demo's report: the page of its evaluation, with the training before it and the commands after it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from speechdlm_ext.io.manifest import read_jsonl
from speechdlm_ext.units.files import parse_units, read_unit_file, row_channels

if TYPE_CHECKING:
    from speechdlm_ext.demo.run import Step
    from speechdlm_ext.report.charts import Curve
    from speechdlm_ext.report.page import Section


def write_report(options: argparse.Namespace, steps: Sequence[tuple[Step, float]], page: Path) -> None:
    """Write the page.

    Args:
        options: of the demo.
        steps: that were run, each with its seconds.
        page: HTML file to write.
    """
    from speechdlm_ext.evaluation.eval_set import PromptOptions
    from speechdlm_ext.evaluation.evaluation import EvaluationOptions, evaluate
    from speechdlm_ext.report.evaluation import PageOptions, page_corpora, write_page

    out = options.output
    manifest, samples = out / "corpus" / "manifest.jsonl", out / "samples.jsonl"
    evaluation = evaluate(  # as the last command: what it measured is kept
        EvaluationOptions(
            generated=out / "samples",
            reference=manifest,
            prompts=PromptOptions(samples),
            vad="energy",
            units=samples,
            reference_units=out / "units.jsonl",
        ),
        out / "evaluation",
    )
    recordings = read_jsonl(manifest)
    lead = (
        f"A two-channel SpeechDLM, trained by fairseq on {sum(row['duration'] for row in recordings) / 60:.1f} minutes "
        f"of dialogue in {len(recordings)} recording{'s' * (len(recordings) != 1)}. It continues the first seconds of "
        "held-out dialogues, both channels at once. Generated continuations are compared with the whole corpus."
    )
    title = "A dialogue, continued"
    sections = PageOptions(title, lead, before=[training_section(out)], after=[commands_section(out, steps)])
    write_page(page, evaluation.result, page_corpora(evaluation), sections)


def training_section(out: Path) -> Section:
    """Losses by update, beside n-grams of the same units."""
    from speechdlm_ext.report.charts import Level, line_chart
    from speechdlm_ext.report.page import Section

    bits = curves(out, "edge_token_loss")
    unigram, bigram = ngram_bits(out / "split")
    best = min((value for _, value in bits[1].points), default=float("nan"))
    finding = (
        f"On held-out segments the model needs {best:.2f} bits per edge unit; a bigram {bigram:.2f}, a unigram "
        f"{unigram:.2f}. An edge unit is the first of a run of equal units."
    )
    levels = [Level("bigram", bigram), Level("unigram", unigram)]
    charts = line_chart(bits, "updates", "Bits per edge unit", levels)
    charts += line_chart(curves(out, "edge_duration_loss"), "updates", "Duration error, frames of 20 ms")
    body = f'<p class="finding">{escape(finding)}</p><div class="pair">{charts}</div>'
    lead = (
        "The n-grams (Kneser-Ney) are of the same training segments. Model size and training options were chosen on "
        "synthetic dialogues of seed 1: another --seed, or your own recordings, test them."
    )
    return Section("training", "Training", body, lead)


def curves(out: Path, figure: str) -> list[Curve]:
    """A figure by update, in training and on held-out data; of an update that was made twice, the later one."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from speechdlm_ext.report.charts import Curve

    found = []
    for folder, name in (("train_inner", "training"), ("valid", "held out")):
        events = EventAccumulator(str(out / "checkpoints" / "tensorboard" / folder), {"scalars": 0})
        events.Reload()
        known = events.Scalars(figure) if figure in events.Tags()["scalars"] else []
        found.append(Curve(name, sorted({event.step: event.value for event in known}.items()), folder == "valid"))
    return found


def ngram_bits(split: Path) -> tuple[float, float]:
    """Bits per edge unit of held-out segments by a unigram and a bigram; the end of a segment is predicted, too."""
    from speechdlm_ext.metrics.ngrams import KneserNey, measure_ngram

    def runs(name: str) -> list[list[int]]:
        rows = read_unit_file(split / f"{name}.jsonl")
        channels = [parse_units(row[channel]) for row in rows for channel in row_channels(row)]
        return [[unit for unit, _ in groupby(units)] for units in channels]

    train, valid = runs("train"), runs("valid")
    units = 1 + max(map(max, train + valid))
    unigram, bigram = (
        measure_ngram(KneserNey(train, order, units, without_repeats=True), valid).nll_loss for order in (1, 2)
    )
    return unigram, bigram


def commands_section(out: Path, steps: Sequence[tuple[Step, float]]) -> Section:
    """Every command as it ran, what it was made with, and recordings that were skipped."""
    from speechdlm_ext.demo.run import versions
    from speechdlm_ext.report.page import Section, table

    items = "".join(
        f"<li><h3>{escape(step.title)}<span>{_clock(seconds)}</span></h3>"
        f'<div class="command"><pre><code>{escape(step.shell_line())}</code></pre>'
        '<button type="button" data-copy>Copy</button></div></li>'
        for step, seconds in steps
    )
    body = f'<ol class="steps">{items}</ol><p class="note">{_clock(sum(seconds for _, seconds in steps))} in all.</p>'
    errors = out / "corpus" / "manifest.jsonl.errors"
    if errors.exists():
        rows = [[str(row.get("audio_filepath", "?")), str(row.get("error", ""))] for row in read_jsonl(errors)]
        body += "<h3>Skipped recordings</h3>" + table(["File", "Reason"], rows)
    body += "<h3>Versions</h3>" + table(["", ""], [[name, version] for name, version in versions().items()])
    return Section("commands", "Commands", body, "Every command as it ran, in order; each can be pasted into a shell.")


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{int(seconds // 60)} min {seconds % 60:.0f} s"
