"""The page of an evaluation as a file: where its sound is, each dialogue's figures, what cannot be shown."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from speechdlm_ext.evaluation.schema import EVENTS
from speechdlm_ext.metrics.events import Events, select_conversations
from speechdlm_ext.metrics.summary import summarize
from speechdlm_ext.metrics.turn_taking import find_events_of_many
from speechdlm_ext.report.dialogues import figure_columns, figure_rows
from speechdlm_ext.report.evaluation import PageCorpus, PageReport, write_page
from speechdlm_ext.report.sound import Recording
from tests.helpers.calls import LEAD, data_of, write


@pytest.mark.commands
def test_sound_is_embedded_while_there_is_room(written: tuple[Path, PageReport], tmp_path: Path) -> None:
    page, report = written
    rows = data_of(page)
    sizes = [sum(len(s) for s in row["sources"] if s.startswith("data:")) for row in rows]
    assert 0 < sum(sizes) <= 1.2e6
    linked = [row for row in rows if any(not s.startswith("data:") for s in row["sources"])]
    assert (report.embedded, report.linked, report.silent) == (sum(map(bool, sizes)), len(linked), 1)
    assert report.embedded >= 2 and report.linked >= 2
    for row in linked:
        for source in row["sources"]:
            assert (page.parent / unquote(source)).is_file()


@pytest.mark.commands
def test_without_room_everything_is_linked(corpora: list[PageCorpus], tmp_path: Path) -> None:
    report = write(tmp_path / "index.html", corpora, 0)
    assert (report.embedded, report.silent) == (0, 1) and report.linked == 7
    assert (tmp_path / "index.html").stat().st_size < 300_000
    assert data_of(tmp_path / "index.html")[1]["offset"] == 36.0 - LEAD


def test_figures_of_each_dialogue_are_its_own(corpora: list[PageCorpus]) -> None:
    """Against the summary of that conversation alone."""
    for corpus in corpora:
        events: Events = corpus.events
        columns = figure_columns([(events, corpus.figures)])
        rows = figure_rows(columns, events, corpus.figures)
        for index, row in enumerate(rows):
            alone = summarize(select_conversations(events, [index]))
            for column, value in zip(columns, row, strict=True):
                kind, _, measure = column.key.partition(".")
                if kind in EVENTS:
                    expected = alone[kind][measure]
                    assert value == (None if expected is None else pytest.approx(expected, abs=1e-4)), column.key
            assert row[0] == pytest.approx(events.durations[index], abs=1e-4)
    assert [c.key for c in figure_columns([(corpora[0].events, corpora[0].figures)])][-2:] == ["wer", "sound.A.level"]
    own = [row[-2] for row in figure_rows(figure_columns([(corpora[0].events, corpora[0].figures)]), corpora[0].events,
                                          corpora[0].figures)]  # fmt: skip
    assert own == [0.5, None, 0.25, None, 1.0, 0.0]


@pytest.mark.commands
def test_lost_sound_is_named_and_the_page_stands(corpora: list[PageCorpus], tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF nothing")
    lost = [Recording([broken]), Recording([tmp_path / "gone.wav"]), *corpora[0].recordings[2:]]
    changed = PageCorpus("generated", corpora[0].names, corpora[0].events, lost)
    report = write(tmp_path / "index.html", [changed, corpora[1]])
    assert [name for name, _ in report.unreadable] == ["call from 5", "call from 36"]
    assert "broken.wav" in report.unreadable[0][1] and "gone.wav" in report.unreadable[1][1]
    assert "gone.wav" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    empty = find_events_of_many([([[]], 10.0)])
    corpus = PageCorpus("generated", ["mute"], empty)
    write_page(tmp_path / "index.html", {"generated": summarize(empty)}, [corpus])
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "no speech was found" in text and "one channel only" in text and "None found" in text
    assert "NaN" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
