"""The page of an evaluation: generated conversations beside real ones, to look at and to listen to.

One file that opens from disk. What belongs to a dialogue (its events, its outline, and its sound where there is room)
is written while the next ones are read, so that memory does not grow with their number.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import IO, Any

import numpy as np

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.metrics.events import Events, one_conversation
from speechdlm_ext.report.comparison import distribution_charts, plain_differences, rate_chart, reasons, summary_table
from speechdlm_ext.report.dialogues import figure_columns, figure_rows, list_data, list_markup
from speechdlm_ext.report.further import further_tables
from speechdlm_ext.report.method import method_tables
from speechdlm_ext.report.page import (
    Section,
    json_script,
    page_end,
    page_start,
    render_section,
    section_start,
    table,
    writable,
)
from speechdlm_ext.report.sound import Recording, Sound, load_sound
from speechdlm_ext.report.timeline import Timeline


@dataclass(frozen=True)
class Corpus:
    """The conversations of one side.

    Attributes:
        name: its key in ``metrics.json``: ``generated`` or ``reference``.
        names: of the conversations, in the order of ``events``; any text.
        events: all of them pooled, on clocks that begin where the measured part begins.
        recordings: where the sound of each is; missing ones have none.
        figures: further figures of each, by name, for the list of dialogues; numbers or None.
        channels: names of the channels of each; letters where missing.
    """

    name: str
    names: Sequence[str]
    events: Events
    recordings: Sequence[Recording] = ()
    figures: Sequence[Mapping[str, Any]] = ()
    channels: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class PageOptions:
    """``embed_megabytes``: of the page that sound may take, first dialogues first; the others' files are linked by
    their paths relative to the page. ``jobs``: files that are read at once. ``progress``: wraps the dialogues as they
    are written; its second argument is their number."""

    title: str = "Generated and real conversation"
    embed_megabytes: float = 24.0
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items

    def __post_init__(self) -> None:
        if not 0 <= self.embed_megabytes < float("inf"):
            raise InputError(f"--embed-megabytes {self.embed_megabytes:g}: a finite number, 0 or more, is wanted")


@dataclass
class PageReport:
    """How many dialogues have their sound in the page, beside it, and not at all; and why files could not be read."""

    embedded: int = 0
    linked: int = 0
    silent: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def words(self, options: PageOptions) -> str:
        """In a sentence."""
        room = f"at most {options.embed_megabytes:g} MB"
        return f"{self.embedded} in this page ({room}), {self.linked} linked beside it, {self.silent} without"


def write_page(
    path: str | os.PathLike[str],
    result: Mapping[str, Any],
    corpora: Sequence[Corpus],
    options: PageOptions | None = None,
) -> PageReport:
    """Write the page, whole or not at all.

    Args:
        path: of the HTML file.
        result: what ``metrics.json`` holds: figures of each corpus under its name, ``distance`` between them; what else
            it holds is shown as it is.
        corpora: the generated conversations, and the reference where there is one.
        options: title, room for sound.

    Raises:
        OSError: the page cannot be written.
    """
    options = options or PageOptions()
    names = [corpus.name for corpus in corpora]
    sections = [
        Section("summary", "Summary", _summary(result, names), _SUMMARY_LEAD),
        Section("lengths", "Durations", distribution_charts([(c.name, c.events) for c in corpora]), _LENGTHS_LEAD),
        Section("dialogues", "Dialogues", "", _DIALOGUES_LEAD),
    ]
    further = further_tables(result, names)
    if further:
        sections.insert(2, Section("further", "Units, words, sound", further, "What else was measured."))
    ends = [("method", "How it was measured")]
    with atomic_write(path) as file:
        anchors = [(section.name, section.title) for section in sections] + ends
        file.write(page_start(options.title, _lead(corpora), anchors))
        for section in sections[:-1]:
            file.write(writable(render_section(section)))
        file.write(section_start(sections[-1]))
        report = _write_dialogues(file, corpora, Path(path).resolve().parent, options)
        file.write("</section>\n")
        file.write(
            writable(
                render_section(
                    Section(*ends[0], method_tables(result, names, report.words(options), report.unreadable), "")
                )
            )
        )
        file.write(page_end(("player.js", "dialogues.js")))
    return report


_SUMMARY_LEAD = (
    "All conversations together. Lines, and the second figures, are confidence intervals by resampling conversations. "
    "Distance of lengths: Wasserstein-1, the seconds by which events differ on average. Halves: the same between two "
    "halves of the reference, as the yardstick."
)
_LENGTHS_LEAD = (
    "Per cent of the events by their length in seconds. What lies beyond the axis is in its outermost bin; triangles "
    "mark the medians."
)
_DIALOGUES_LEAD = (
    "Choose one to hear and see it. Click or drag in its timeline to seek. Keys: arrows, Page Up and Page Down move, "
    "space plays, + and − magnify; in the list, up and down go to the next dialogue, Enter chooses and plays it."
)


def _lead(corpora: Sequence[Corpus]) -> str:
    sizes = [
        f"{c.events.conversations:,} {c.name} conversation{'s' * (c.events.conversations != 1)} "
        f"({c.events.duration / 60:,.1f} minutes)"
        for c in corpora
    ]
    return writable(" beside ".join(sizes)) + "."


def _summary(result: Mapping[str, Any], names: Sequence[str]) -> str:
    unknown = ""
    if rows := reasons(result, names):
        unknown = f"<h3>What cannot be said</h3>{table(['Corpus', 'Figures', 'Why'], rows, stacked=True)}"
    differences = plain_differences(result)
    first = f'<p class="finding">{escape(differences)}</p>' if differences else ""
    return first + rate_chart(result, names) + summary_table(result, names) + unknown


def _write_dialogues(file: IO[str], corpora: Sequence[Corpus], folder: Path, options: PageOptions) -> PageReport:
    """The list and the data of every dialogue, as they are read."""
    columns = figure_columns([(corpus.events, corpus.figures) for corpus in corpora])
    file.write(writable(list_markup(columns, "Dialogues and their figures")))
    rows: dict[int, dict[str, Any]] = {}
    firsts = np.cumsum([0, *(corpus.events.conversations for corpus in corpora)]).tolist()
    values = [figure_rows(columns, corpus.events, corpus.figures) for corpus in corpora]
    report = PageReport()
    sounds = options.progress(_read_sounds(corpora, folder, options, report), firsts[-1])
    for side, index, sound in sounds:
        corpus, number = corpora[side], firsts[side] + index
        file.write(json_script(_timeline(corpus, index, sound).data(), f"dialogue-{number}") + "\n")
        rows[number] = {"id": number, "corpus": corpus.name, "name": corpus.names[index], "values": values[side][index]}
    file.write(list_data(columns, [rows[number] for number in sorted(rows)]) + "\n")
    return report


def _timeline(corpus: Corpus, index: int, sound: Sound) -> Timeline:
    lead = _recording(corpus, index).lead
    events = one_conversation(corpus.events, index)
    parts = [("prompt", 0.0, lead), ("continuation", lead, lead + events.duration)] if lead else []
    names = corpus.channels[index] if index < len(corpus.channels) else ()
    return Timeline(corpus.names[index], events, sound, lead, parts, corpus.name, names)


def _recording(corpus: Corpus, index: int) -> Recording:
    return corpus.recordings[index] if index < len(corpus.recordings) else Recording()


def _read_sounds(
    corpora: Sequence[Corpus], folder: Path, options: PageOptions, report: PageReport
) -> Iterator[tuple[int, int, Sound]]:
    """(corpus, conversation, sound) of each, read ahead in threads, first ones of all corpora first."""
    room = round(options.embed_megabytes * 1e6)
    waiting: deque[tuple[int, int, Future[Sound]]] = deque()
    jobs = max(1, options.jobs)

    def take() -> tuple[int, int, Sound]:
        nonlocal room
        side, index, future = waiting.popleft()
        corpus = corpora[side]
        try:
            sound = future.result()
            size = sum(map(len, sound.sources)) if sound.embedded else 0
            if size > room:  # others took the room while this one was read; it is not tried again and again
                seconds = float(corpus.events.durations[index])
                sound, size, room = load_sound(_recording(corpus, index), seconds, 0, folder), 0, room // 2
            room -= size
        except InputError as error:
            report.unreadable.append((corpus.names[index], one_line(error)))
            sound = Sound()
        report.embedded += sound.embedded
        report.linked += bool(sound.sources) and not sound.embedded
        report.silent += not sound.sources
        return side, index, sound

    with ThreadPoolExecutor(jobs) as pool:
        for side, index in _in_turn([corpus.events.conversations for corpus in corpora]):
            seconds = float(corpora[side].events.durations[index])
            future = pool.submit(load_sound, _recording(corpora[side], index), seconds, room, folder)
            waiting.append((side, index, future))
            if len(waiting) > 2 * jobs:
                yield take()
        while waiting:
            yield take()


def _in_turn(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    for index in range(max(counts, default=0)):
        yield from ((side, index) for side, count in enumerate(counts) if index < count)
