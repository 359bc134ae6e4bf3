"""The page of an evaluation: generated dialogues beside recorded ones, their figures and their audio.

One file that opens from disk. What belongs to a dialogue (its events, its outline, and its audio while there is room)
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
from speechdlm_ext.evaluation.evaluation import Evaluation
from speechdlm_ext.evaluation.figures import dialogue_figures
from speechdlm_ext.io.manifest import atomic_write
from speechdlm_ext.io.pool import available_cores
from speechdlm_ext.metrics.events import Events, one_conversation
from speechdlm_ext.report.dialogues import figure_columns, figure_rows, list_data, list_markup
from speechdlm_ext.report.page import (
    Section,
    json_script,
    page_end,
    page_start,
    render_section,
    section_start,
    writable,
)
from speechdlm_ext.report.player import Player
from speechdlm_ext.report.sound import Recording, Sound, load_sound
from speechdlm_ext.report.tables import (
    clear_differences,
    duration_charts,
    group_tables,
    method_tables,
    rate_chart,
    summary_table,
    unknown_table,
)


@dataclass(frozen=True)
class PageCorpus:
    """The dialogues of a corpus on the page.

    Attributes:
        name: its key in ``metrics.json``: ``generated`` or ``reference``.
        names: of the dialogues, in the order of ``events``; any text.
        events: all of them pooled, on clocks that begin where the measured part begins.
        recordings: where the audio of each is; missing ones have none.
        figures: further figures of each, by key; numbers or None.
        channels: names of the channels of each; letters where missing.
    """

    name: str
    names: Sequence[str]
    events: Events
    recordings: Sequence[Recording] = ()
    figures: Sequence[Mapping[str, Any]] = ()
    channels: Sequence[Sequence[str]] = ()


def page_corpora(evaluation: Evaluation) -> list[PageCorpus]:
    """The corpora of an evaluation."""
    corpora = []
    for name, own in evaluation.sets.items():
        recordings = [
            Recording(dialogue.files, start, lead)
            for dialogue, (start, _), lead in zip(own.dialogues, own.windows, own.leads, strict=True)
        ]
        names = [dialogue.name for dialogue in own.dialogues]
        speakers = [measurement.speakers for measurement in own.measurements]
        corpora.append(PageCorpus(name, names, own.events, recordings, dialogue_figures(own), speakers))
    return corpora


@dataclass(frozen=True)
class PageOptions:
    """How the page is written.

    Attributes:
        title: plain text.
        lead: plain text under it; by default how much was measured.
        embed_megabytes: room for audio in the page, first dialogues first; the files of the others are linked by their
            paths relative to the page.
        num_workers: files that are read at once.
        before, after: further sections.
        progress: wraps the dialogues as they are written; its second argument is their number.
    """

    title: str = "Turn-taking evaluation"
    lead: str = ""
    embed_megabytes: float = 24.0
    num_workers: int = field(default_factory=available_cores)
    before: Sequence[Section] = ()
    after: Sequence[Section] = ()
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items

    def __post_init__(self) -> None:
        if not 0 <= self.embed_megabytes < float("inf"):
            raise InputError(f"--embed-megabytes {self.embed_megabytes:g}: expected a finite number, 0 or more")


@dataclass
class PageReport:
    """How many dialogues have their audio in the page, linked, or none; and why files could not be read."""

    embedded: int = 0
    linked: int = 0
    silent: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def words(self, options: PageOptions) -> str:
        """In a sentence."""
        room = f"at most {options.embed_megabytes:g} MB"
        return f"{self.embedded} in this page ({room}), {self.linked} linked, {self.silent} without audio"


def write_page(
    path: str | os.PathLike[str],
    result: Mapping[str, Any],
    corpora: Sequence[PageCorpus],
    options: PageOptions | None = None,
) -> PageReport:
    """Write the page, whole or not at all.

    Args:
        path: of the HTML file.
        result: content of ``metrics.json``.
        corpora: the generated dialogues, and the reference where there is one; see :func:`page_corpora`.
        options: title, room for audio, further sections.

    Raises:
        OSError: the page cannot be written.
    """
    options = options or PageOptions()
    names = [corpus.name for corpus in corpora]
    sections = [
        *options.before,
        Section("summary", "Turn-taking", _summary(result, names), _SUMMARY_LEAD),
        Section("durations", "Durations", duration_charts([(c.name, c.events) for c in corpora]), _DURATIONS_LEAD),
    ]
    if groups := group_tables(result, names):
        sections.append(Section("figures", "Other figures", groups))
    dialogues = Section("dialogues", "Dialogues", "", _DIALOGUES_LEAD)
    with atomic_write(path) as file:
        every = [*sections, dialogues, *options.after, Section("method", "Method", "")]
        lead = options.lead or _lead(corpora)
        file.write(page_start(options.title, writable(lead), [(each.name, each.title) for each in every]))
        for section in sections:
            file.write(writable(render_section(section)))
        file.write(section_start(dialogues))
        report = _write_dialogues(file, corpora, Path(path).resolve().parent, options)
        file.write("</section>\n")
        method = method_tables(result, names, report.words(options), report.unreadable)
        for section in [*options.after, Section("method", "Method", method)]:
            file.write(writable(render_section(section)))
        file.write(page_end())
    return report


_SUMMARY_LEAD = (
    "All dialogues pooled. Second lines, and the chart's lines, are bootstrap confidence intervals over dialogues. "
    "Distance: Wasserstein-1 distance of the durations. Split-half: the same figure between random halves of the "
    "reference, a baseline that sampling alone gives."
)
_DURATIONS_LEAD = (
    "Events by duration, in per cent. The outermost bins include what lies beyond the axis; triangles mark the medians."
)
_DIALOGUES_LEAD = (
    "Select a dialogue to play it. Click or drag in the timeline to seek. Keys: arrows, Page Up and Page Down seek, "
    "space plays, + and − zoom; in the list, up and down move, Enter selects and plays. A column's head sorts by it."
)


def _lead(corpora: Sequence[PageCorpus]) -> str:
    sizes = [
        f"{c.events.conversations:,} {c.name} dialogue{'s' * (c.events.conversations != 1)} "
        f"({c.events.duration / 60:,.1f} minutes)"
        for c in corpora
    ]
    return ", ".join(sizes) + "."


def _summary(result: Mapping[str, Any], names: Sequence[str]) -> str:
    differences = clear_differences(result)
    first = f'<p class="finding">{escape(differences)}</p>' if differences else ""
    return first + rate_chart(result, names) + summary_table(result, names) + unknown_table(result, names)


def _write_dialogues(file: IO[str], corpora: Sequence[PageCorpus], folder: Path, options: PageOptions) -> PageReport:
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


def _timeline(corpus: PageCorpus, index: int, sound: Sound) -> Player:
    lead = _recording(corpus, index).lead
    events = one_conversation(corpus.events, index)
    parts = [("prompt", 0.0, lead), ("continuation", lead, lead + events.duration)] if lead else []
    names = corpus.channels[index] if index < len(corpus.channels) else ()
    return Player(corpus.names[index], events, sound, lead, parts, corpus.name, names)


def _recording(corpus: PageCorpus, index: int) -> Recording:
    return corpus.recordings[index] if index < len(corpus.recordings) else Recording()


def _read_sounds(
    corpora: Sequence[PageCorpus], folder: Path, options: PageOptions, report: PageReport
) -> Iterator[tuple[int, int, Sound]]:
    """(corpus, dialogue, audio) of each, read ahead in threads, the first ones of all corpora first."""
    room = round(options.embed_megabytes * 1e6)
    waiting: deque[tuple[int, int, Future[Sound]]] = deque()
    workers = max(1, options.num_workers)

    def take() -> tuple[int, int, Sound]:
        nonlocal room
        side, index, future = waiting.popleft()
        corpus = corpora[side]
        try:
            sound = future.result()
            size = sum(map(len, sound.sources)) if sound.embedded else 0
            if size > room:  # others used the room while this one was read
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

    with ThreadPoolExecutor(workers) as pool:
        for side, index in _in_turn([corpus.events.conversations for corpus in corpora]):
            seconds = float(corpora[side].events.durations[index])
            future = pool.submit(load_sound, _recording(corpora[side], index), seconds, room, folder)
            waiting.append((side, index, future))
            if len(waiting) > 2 * workers:
                yield take()
        while waiting:
            yield take()


def _in_turn(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    for index in range(max(counts, default=0)):
        yield from ((side, index) for side, count in enumerate(counts) if index < count)
