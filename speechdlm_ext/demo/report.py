"""Write the demo's report from what its steps made."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterable
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import run_command


def write_report(out: Path, page: Path) -> None:
    """Gather the figures in ``out`` and write the page, one file."""
    from speechdlm_ext.demo.figures import gather
    from speechdlm_ext.io.atomic import atomic_write

    html = render(gather(out))
    with atomic_write(page) as file:
        file.write(html)


def render(figures: Any) -> str:
    """The page as HTML, from :class:`~speechdlm_ext.demo.figures.DemoFigures`."""
    from speechdlm_ext.report.page import Section, render_page

    count = len(figures.recordings)
    minutes = sum(row["duration"] for row in figures.recordings) / 60
    size = f" of {figures.curves.parameters:,} parameters" if figures.curves.parameters else ""
    lead = (
        f"A two-channel speech model{size}, trained by stock fairseq on {minutes:.1f} minutes of conversation in "
        f"{count} recording{'s' if count != 1 else ''}, and what it says when it is given the beginning of a "
        "conversation that it has never heard."
    )
    sections = [
        Section("listen", "Listen", _listen(figures), "Each prompt is held out from training. The model continues both "
                "channels at once, in its own sound; below is how the people really went on."),
        Section("learning", "What it learned", _learning(figures)),
        Section("turns", "Taking turns", _turns(figures), "Events per minute, and below them their median length. "
                "Generated and real are the continuations of the same prompts; all three are measured from the sound, "
                "in the same way."),
        Section("making", "How it was made", _making(figures), "Every command as it ran, in order; each can be pasted "
                "into a shell."),
    ]  # fmt: skip
    return render_page("A conversation, continued", lead, sections, _verdicts(figures))


def _verdicts(figures: Any) -> str:
    from speechdlm_ext.demo.figures import is_sane_ratio
    from speechdlm_ext.report.page import verdict, verdicts

    bits = figures.model_bits
    cards = [
        verdict(
            "Bits per edge unit, held out",
            figures.beats_bigram(),
            "–" if bits is None else f"{bits:.2f}",
            f"To pass, less than the bigram's {figures.bigram.nll_loss:.2f}; "
            f"the unigram has {figures.unigram.nll_loss:.2f}.",
        )
    ]
    generated, corpus = figures.generated(), figures.corpus
    for channel, ratio in enumerate(figures.activity_ratios()):
        there = 100 * corpus.speech[channel] / corpus.duration if corpus.duration else 0
        here = 100 * generated.speech[channel] / generated.duration if channel < len(generated.speech) else 0
        cards.append(
            verdict(
                f"Generated speech, channel {'AB'[channel] if channel < 2 else channel + 1}",
                is_sane_ratio(ratio),
                "–" if ratio is None else f"{ratio:.2f} ×",
                f"{here:.0f} % of the time, {there:.0f} % in the corpus. To pass, 0.5 to 2 times.",
            )
        )
    return verdicts(cards)


def _listen(figures: Any) -> str:
    from speechdlm_ext.report.timeline import Timeline

    parts = []
    for number, prompt in enumerate(figures.prompts, 1):
        players = []
        for index, piece in enumerate([*prompt.samples, prompt.real], 1):
            real = piece is prompt.real
            then = "what they really said" if real else "continuation"
            spans = [("prompt", 0.0, piece.prompt_seconds), (then, piece.prompt_seconds, piece.duration)]
            note = "recording" if real else f"seed {piece.seed}" if piece.seed is not None else ""
            title = "The real continuation" if real else f"Sample {index}"
            timeline = Timeline.of_wave(title, piece.wave, piece.sample_rate, piece.activity, spans, note)
            players.append(timeline.render())
        where = f"{prompt.recording}, from {prompt.start:g} s"
        parts.append(
            f'<h3>Prompt {number} <small>{escape(where)}</small></h3><div class="samples">{"".join(players)}</div>'
        )
    return "".join(parts) or '<p class="empty">No samples were made.</p>'


def _learning(figures: Any) -> str:
    from speechdlm_ext.report.charts import Curve, Level, bar_chart, line_chart

    curves = figures.curves
    bits = [
        Curve("training", sorted(curves.train_bits.items())),
        Curve("held out", sorted(curves.valid_bits.items()), dots=True),
    ]
    durations = [
        Curve("training", sorted(curves.train_duration.items())),
        Curve("held out", sorted(curves.valid_duration.items()), dots=True),
    ]
    levels = [Level("bigram", figures.bigram.nll_loss), Level("unigram", figures.unigram.nll_loss)]
    bars = [
        ("unigram", figures.unigram.nll_loss),
        ("bigram", figures.bigram.nll_loss),
        ("SpeechDLM", figures.model_bits),
    ]
    smoothing = (
        f"An edge is the start of a run of equal units; {figures.bigram.units + figures.bigram.utterances:,} of them, "
        "ends of segments included, are held out and scored. Unigram and bigram (Kneser-Ney) count the runs of the "
        "training segments. The model's checkpoint was chosen for the lowest bits held out; its size and the training "
        "options were chosen on made conversations of seed 1: another --seed, or your own recordings, test them."
    )
    chart = bar_chart(bars, "bits, less is better", "Edge units, held out", strong=2, note=smoothing)
    return (
        line_chart(bits, "updates", "Bits per edge unit", levels, "Bits per edge unit in training and held out")
        + '<div class="pair" style="margin-top:1.1rem">'
        + chart
        + line_chart(durations, "updates", "Error of durations, frames of 20 ms", (), "Duration error by updates")
        + "</div>"
    )


def _turns(figures: Any) -> str:
    from speechdlm_ext.metrics.summary import summarise
    from speechdlm_ext.report.comparison import distribution_charts
    from speechdlm_ext.report.glossary import EVENTS
    from speechdlm_ext.report.page import table

    generated, real, corpus = figures.generated(), figures.real(), figures.corpus
    columns = [summarise(events) for events in (generated, real, corpus)]
    rows = [
        [
            "Speech of A\nand of B",
            *(
                "\n".join("–" if share is None else f"{100 * share:.0f} %" for share in c["speech_share"] or [None])
                for c in columns
            ),
        ]
    ]
    rows += [
        [f"{term.label}\n{term.meaning}", *(_rate(column[name]) for column in columns)] for name, term in EVENTS.items()
    ]
    head = ["", *(f"{name}\n{c['minutes']:.1f} min" for name, c in zip(_COLUMNS, columns, strict=True))]
    charts = distribution_charts([("generated", generated), ("real", real)], ("ipus", "pauses", "gaps", "overlaps"))
    note = "Speech is found by energy, every 10 ms, against each channel's own noise floor."
    return (
        table(head, rows)
        + f'<p class="note">{escape(note)}</p><h3>How long, per cent of the events by seconds</h3>'
        + charts
    )


_COLUMNS = ("Generated", "Real", "Corpus")


def _rate(figures: dict[str, float | int | None]) -> str:
    rate, median = figures["per_minute"], figures["median"]
    first = "–" if rate is None else f"{rate:.1f}"
    return first if median is None else f"{first}\n{median:.2f} s"


def _making(figures: Any) -> str:
    from speechdlm_ext.report.page import table

    items = "".join(
        f"<li><h3>{escape(step['title'])}<span>{_clock(step['seconds'])}</span></h3>"
        f'<div class="command"><pre><code>{escape(step["command"])}</code></pre>'
        '<button type="button" data-copy>Copy</button></div></li>'
        for step in figures.steps
        if step.get("state") == "done"
    )
    total = sum(step["seconds"] for step in figures.steps if step.get("state") == "done")
    versions = table(["Version", ""], [[name, version] for name, version in find_versions()])
    left_out = ""
    if figures.left_out:
        rows = [[str(row.get("audio_filepath", row.get("path", "?"))), str(row.get("error", row.get("reason", "")))]
                for row in figures.left_out]  # fmt: skip
        left_out = "<h3>Recordings left out</h3>" + table(["File", "Reason"], rows)
    return (
        f'<ol class="steps">{items}</ol><p class="note">{_clock(total)} in all, this page apart.</p>{left_out}'
        f"<h3>With</h3>{versions}"
    )


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{int(seconds // 60)} min {seconds % 60:.0f} s"


def find_versions() -> Iterable[tuple[str, str]]:
    """What the result was made with."""
    yield "Python", platform.python_version()
    for name in ("speechdlm_ext", "fairseq", "torch", "torchaudio", "numpy", "scikit-learn", "espeakng-loader"):
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    yield "system", f"{platform.system()} {platform.machine()}"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the demo")
    parser.add_argument("page", type=Path, help="HTML file to write")
    options = parser.parse_args()
    write_report(options.out, options.page)
    print(options.page)


if __name__ == "__main__":
    run_command(main)
