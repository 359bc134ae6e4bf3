"""The page of an evaluation, on real calls, in a real Chromium: it plays, seeks, sorts, filters, and fits a phone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile

from speechdlm_ext.audio import read_audio
from speechdlm_ext.metrics.activity import ActivityOptions, detect_speech
from speechdlm_ext.metrics.bootstrap import BootstrapOptions
from speechdlm_ext.metrics.comparison import compare, compare_halves
from speechdlm_ext.metrics.events import Events, select_conversations
from speechdlm_ext.metrics.intervals import crop_intervals, shift_intervals
from speechdlm_ext.metrics.rttm import read_rttm, speech_by_speaker
from speechdlm_ext.metrics.summary import summarise
from speechdlm_ext.metrics.turn_taking import find_events_of_many
from speechdlm_ext.report.dialogues import figure_columns, figure_rows
from speechdlm_ext.report.evaluation import Corpus, PageOptions, PageReport, write_page
from speechdlm_ext.report.glossary import EVENTS
from speechdlm_ext.report.sound import Recording
from tests.report import browser

ROOT = Path(__file__).parents[2]
HOSTILE = "</script><script>document.title='owned'</script> '\"&<!-- 会話\u2028 " + "very-long-" * 30
LEAD = 4.0  # seconds of prompt before the parts of the call
NOW = "return document.querySelector('[data-dialogues] audio').currentTime;"


# Thresholds of this test's own: with them there are events of every kind in the parts that are shown.
THRESHOLDS = ActivityOptions(
    rise=0.45,
    fall=0.22,
    above_noise=0.0,
    below_loud=200.0,
    shortest_silence=0.1,
    window=0.03,
    swell=0.0,
    fade=0.0,
)


@pytest.fixture(scope="module")
def corpora(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Corpus]:
    """Parts of a call, a short call, the same as two files, a mute one; beside them meetings with four speakers."""
    folder = tmp_path_factory.mktemp("generated")
    call, short = shared / "speech" / "calls" / "auto_repairs_40.flac", shared / "speech/calls/google_two_channel.flac"
    wave, rate = read_audio(call)
    speech = [detect_speech(channel, rate, THRESHOLDS) for channel in wave.numpy()]
    items, names, recordings = [], [], []
    for start in (30.0, 90.0, 150.0):
        part = [shift_intervals(crop_intervals(a, start, start + 20), -start) for a in speech]
        items.append((part, 20.0))
        names.append(f"call from {start:g}")
        recordings.append(Recording([call], start, LEAD))
    wave, rate = read_audio(short)
    speech = [detect_speech(channel, rate, THRESHOLDS) for channel in wave.numpy()]
    sides = [folder / f"side {number} #%.wav" for number in (1, 2)]
    for side, channel in zip(sides, wave.numpy(), strict=True):
        soundfile.write(side, channel, rate)
    for name, files in ((HOSTILE, [short]), ("two files", sides), ("silent", [])):
        items.append((speech if name != "silent" else [[], []], wave.shape[1] / rate))
        names.append(name)
        recordings.append(Recording(files))
    figures = [
        {"wer": value, "sound.A.level": -20.0 - n} for n, value in enumerate((0.5, None, 0.25, float("nan"), 1.0, 0))
    ]
    generated = Corpus("generated", names, find_events_of_many(items), recordings, figures)
    people = speech_by_speaker(read_rttm(shared / "speech" / "ami.rttm"))
    chosen = {name: people[name] for name in ("trn00", "trn03", "tst00")}
    meetings = find_events_of_many([([who[name] for name in sorted(who)], 30.0) for who in chosen.values()])
    files = [Recording([shared / "speech" / "ami" / f"{name}.flac"]) for name in chosen]
    who = [sorted(people) for people in chosen.values()]
    return [generated, Corpus("reference", list(chosen), meetings, files, [], who)]


def write(path: Path, corpora: list[Corpus], megabytes: float = 1.2) -> PageReport:
    generated, reference = corpora[0].events, corpora[1].events
    bootstrap = BootstrapOptions(resamples=100)
    result = {
        "generated": summarise(generated, bootstrap)
        | {"sound": {"A": {"level": -21.5}, "B": {"level": -23.0}}, "x": {HOSTILE[:20]: None}},
        "reference": summarise(reference, bootstrap),
        "distance": compare(generated, reference, bootstrap),
        "yardstick": compare_halves(reference, splits=3),
        "activity": {"source": "energy", "frame_shift_seconds": 0.01},
        "left_out": [{"file": HOSTILE, "reason": "no speech"}],
    }
    return write_page(path, result, corpora, PageOptions(embed_megabytes=megabytes, jobs=2))


@pytest.fixture(scope="module")
def written(corpora: list[Corpus], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PageReport]:
    path = tmp_path_factory.mktemp("a page's folder") / "index.html"
    return path, write(path, corpora)


@pytest.fixture(scope="module")
def page(written: tuple[Path, PageReport]) -> Path:
    return written[0]


def data_of(page: Path) -> list[dict[str, Any]]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="dialogue-(\d+)">(.*?)</script>', text)
    return [json.loads(content) for _, content in sorted(found, key=lambda pair: int(pair[0]))]


def choose(driver: Any, name: str) -> None:
    """Choose a dialogue and wait for its sound."""
    script = (
        "const done = arguments[1], row = [...document.querySelectorAll('.dialogues tbody button')]"
        ".find((b) => b.textContent === arguments[0]);"
        "if (!row.closest('tr').hasAttribute('aria-current')) row.click();"
        "const ready = () => { const a = document.querySelector('[data-dialogues] audio');"
        " !a || a.readyState >= 2 || a.error ? done(!a || !a.error) : setTimeout(ready, 20); }; ready();"
    )
    assert driver.execute_async_script(script, name)


def names_shown(driver: Any) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll('.dialogues tbody button')].map((b) => b.textContent);"
    )


def test_loads_clean_and_hostile_names_are_only_names(driver: Any, page: Path, corpora: list[Corpus]) -> None:
    browser.open_page(driver, page)
    assert browser.console_errors(driver) == []
    assert driver.title == "Generated and real conversation"
    assert names_shown(driver) == [*corpora[0].names, *corpora[1].names]
    choose(driver, HOSTILE)
    assert driver.find_element("css selector", "[data-dialogues] figcaption b").get_attribute("textContent") == HOSTILE
    assert driver.title == "Generated and real conversation"
    assert [row["title"] for row in data_of(page)] == [*corpora[0].names, *corpora[1].names]
    text = re.sub(r"data:[^\"']*", "", page.read_text(encoding="utf-8"))
    assert "http" not in text.replace('"http://www.w3.org/2000/svg"', "")
    kinds = driver.execute_script("return [...document.querySelectorAll('.grid figcaption')].map((e) => e.innerText);")
    assert [kind.split("\n")[0] for kind in kinds] == [term.label for term in EVENTS.values()]
    assert browser.console_errors(driver) == []


def test_sound_is_embedded_while_there_is_room(written: tuple[Path, PageReport], tmp_path: Path, shared: Path) -> None:
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


def test_without_room_everything_is_linked(corpora: list[Corpus], tmp_path: Path) -> None:
    report = write(tmp_path / "index.html", corpora, 0)
    assert (report.embedded, report.silent) == (0, 1) and report.linked == 8
    assert (tmp_path / "index.html").stat().st_size < 300_000
    assert data_of(tmp_path / "index.html")[1]["offset"] == 90.0 - LEAD


@pytest.mark.parametrize("name", ("call from 30", "call from 150", HOSTILE, "two files", "tst00"))
def test_plays_seeks_and_follows(driver: Any, page: Path, corpora: list[Corpus], name: str) -> None:
    from selenium.webdriver import ActionChains

    browser.open_page(driver, page)
    choose(driver, name)
    number = [*corpora[0].names, *corpora[1].names].index(name)
    data = data_of(page)[number]
    track = driver.find_element("css selector", "[data-dialogues] .track")
    width, length = track.rect["width"], data["duration"]
    for share in (0.7, 0.25):
        ActionChains(driver).move_to_element_with_offset(track, round((share - 0.5) * width), 0).click().perform()
        time = driver.execute_script(NOW) - data["offset"]
        assert time == pytest.approx(share * length, abs=0.004 * length)
        head = driver.find_element("css selector", "[data-dialogues] .playhead")
        place = pytest.approx(track.rect["x"] + share * width, abs=8)
        browser.wait_until(driver, lambda: head.rect["x"] == place)  # noqa: B023
    before = driver.execute_script(NOW)
    driver.execute_script(  # elements that are not on the page play, too
        "window.played = []; const play = HTMLMediaElement.prototype.play;"
        "HTMLMediaElement.prototype.play = function () { window.played.push(this); return play.call(this); };"
    )
    paused, audios, told, now, played = driver.execute_async_script(
        "const [offset, done] = arguments, all = [...document.querySelectorAll('[data-dialogues] audio')], a = all[0];"
        "const h = document.querySelector('[data-dialogues] .playhead'), s = a.currentTime, left = h.style.left;"
        # The page follows by and by; how soon depends on how busy the machine is.
        "const track = document.querySelector('[data-dialogues] .track'), told = () => +track.ariaValueNow;"
        "const apart = () => Math.max(...window.played.map((b) => Math.abs(b.currentTime - a.currentTime)));"
        "const follows = () => h.style.left !== left && told() + offset > s + 0.4 && apart() < 0.15;"
        "a.play(); const wait = () => a.currentTime > s + 0.5 && follows() ?"
        " done([a.paused, all.length, told() + offset, a.currentTime,"
        " window.played.map((b) => [b.paused, b.currentTime, b.controls])]) : setTimeout(wait, 20); wait();",
        data["offset"],
    )
    assert not paused and audios == 1 and before + 0.4 < told < now + 0.1
    assert len(played) == len(data["sources"]) == (2 if name == "two files" else 1)
    for paused, time, controls in played[1:]:  # along with the first one, whose controls are for both
        assert not paused and not controls and time == pytest.approx(played[0][1], abs=0.15)
    assert browser.console_errors(driver) == []


def test_what_is_drawn_is_what_was_found(driver: Any, page: Path, corpora: list[Corpus]) -> None:
    """Gaps, overlaps, pauses and each channel's speech lie, in pixels, where the events say; the prompt comes first."""
    browser.open_page(driver, page)
    choose(driver, "call from 90")
    events = select_conversations(corpora[0].events, [1])
    drawn = driver.execute_script(
        "const t = document.querySelector('[data-dialogues] .track').getBoundingClientRect();"
        "const all = (q, e = document) => [...e.querySelectorAll('[data-dialogues] ' + q)].map((m) => {"
        " const b = m.getBoundingClientRect(); return [(b.left - t.left) / t.width, (b.right - t.left) / t.width]; });"
        "return { gap: all('.between .gap'), overlap: all('.between .overlap'), pause: all('.between .pause'),"
        " ipu: all('.channel-0 rect.speech').concat(all('.channel-1 rect.speech')), part: all('.part') };"
    )
    total = 20 + LEAD
    for kind, column in (("gap", events.gaps), ("overlap", events.overlaps), ("pause", events.pauses)):
        true = [[(start + LEAD) / total, (end + LEAD) / total] for start, end, _ in map(astuple, column)]
        assert len(true) > 0 or kind == "overlap"
        assert np.allclose(np.reshape(drawn[kind], (-1, 2)), np.reshape(true, (-1, 2)), atol=0.003), kind
    assert len(drawn["ipu"]) == len(events.ipus)
    assert np.allclose(drawn["part"], [[0, LEAD / total], [LEAD / total, 1]], atol=0.003)
    readout = driver.find_element("css selector", "[data-dialogues] .readout")
    track = driver.find_element("css selector", "[data-dialogues] .track")
    driver.execute_script("document.querySelector('[data-dialogues] audio').currentTime = arguments[0];", 88.0)
    browser.wait_until(driver, lambda: readout.text.startswith("2.0 s · before the part"))
    gap = events.gaps[0]
    inside = (gap.start + gap.end) / 2
    driver.execute_script("document.querySelector('[data-dialogues] audio').currentTime = arguments[0];", 90 + inside)
    browser.wait_until(driver, lambda: f"gap of {gap.duration:.2f} s" in readout.text)
    assert f"gap of {gap.duration:.2f} s" in track.get_attribute("aria-valuetext")
    counts = driver.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('.jump')]"
        ".map((b) => [b.classList[1], Number(b.querySelector('b').textContent)]));"
    )
    assert counts["gap"] == len(events.gaps) and counts["backchannel"] == len(events.backchannels)


def astuple(event: Any) -> tuple[float, float, tuple[int, ...]]:
    return event.start, event.end, event.channels


def test_legend_jumps_to_the_next_event(driver: Any, page: Path, corpora: list[Corpus]) -> None:
    browser.open_page(driver, page)
    choose(driver, "call from 90")
    starts = [event.start + LEAD for event in select_conversations(corpora[0].events, [1]).gaps]
    offset = data_of(page)[1]["offset"]
    button = driver.find_element("css selector", ".jump.gap")
    for start in [*starts, starts[0]]:  # after the last comes the first
        button.click()
        assert driver.execute_script(NOW) - offset == pytest.approx(max(0, start - 1), abs=0.03)


def test_every_column_sorts(driver: Any, page: Path, corpora: list[Corpus]) -> None:
    browser.open_page(driver, page)
    columns = figure_columns([(c.events, c.figures) for c in corpora])
    values = [row for c in corpora for row in figure_rows(columns, c.events, c.figures)]
    names = [*corpora[0].names, *corpora[1].names]
    heads = driver.find_elements("css selector", ".dialogues thead button")
    assert len(heads) == len(columns) + 1
    for number in (0, 1, 4, 8, len(columns) - 2, len(columns) - 1):
        known = [(row[number], name) for row, name in zip(values, names, strict=True) if row[number] is not None]
        unknown = [name for row, name in zip(values, names, strict=True) if row[number] is None]
        for descending in (True, False):
            driver.execute_script("arguments[0].click();", heads[number + 1])
            expected = sorted(known, key=lambda pair: -pair[0] if descending else pair[0])
            assert names_shown(driver) == [name for _, name in expected] + unknown
            direction = heads[number + 1].find_element("xpath", "..").get_attribute("aria-sort")
            assert direction == ("descending" if descending else "ascending")
    assert any(row[-2] is None for row in values) and not any(np.isnan(v) for row in values for v in row if v)


def test_filters_hide_rows(driver: Any, page: Path, corpora: list[Corpus]) -> None:
    browser.open_page(driver, page)
    columns = figure_columns([(c.events, c.figures) for c in corpora])
    values = [row for c in corpora for row in figure_rows(columns, c.events, c.figures)]
    names = [*corpora[0].names, *corpora[1].names]
    field = {name: driver.find_element("name", name) for name in ("name", "corpus")}
    field["name"].send_keys("CALL")
    assert names_shown(driver) == names[:3]
    field["name"].clear()
    field["corpus"].send_keys("reference")
    assert names_shown(driver) == list(corpora[1].names)
    driver.find_element("css selector", "[type=reset]").click()
    driver.execute_async_script("setTimeout(arguments[0], 50);")
    assert names_shown(driver) == names
    number = next(n for n, column in enumerate(columns) if column.key == "gap.per_minute")
    driver.execute_script(
        "const s = document.querySelector('.conditions select'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('input', { bubbles: true }));",
        str(number),
    )
    least, most = driver.find_elements("css selector", ".conditions input")
    least.send_keys("2")
    most.send_keys("9")
    fits = [name for name, row in zip(names, values, strict=True) if row[number] is not None and 2 <= row[number] <= 9]
    assert 0 < len(fits) < len(names) - 1 and names_shown(driver) == fits
    assert driver.find_element("css selector", "[role=status]").text == f"{len(fits)} of {len(names)} dialogues"
    driver.find_element("css selector", ".add").click()
    second = driver.find_elements("css selector", ".conditions fieldset")[1]
    assert driver.switch_to.active_element == second.find_element("tag name", "select")
    second.find_elements("tag name", "input")[0].send_keys("25")  # seconds at least
    both = [n for n, row in zip(names, values, strict=True) if n in fits and row[0] >= 25]
    assert names_shown(driver) == both


def test_keys_alone_will_do(driver: Any, page: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    browser.open_page(driver, page)
    order, outlines = [], []
    for _ in range(80):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        tag, width = driver.execute_script(
            "const e = document.activeElement, s = getComputedStyle(e);"
            "return [e.tagName + '.' + (e.name || e.type || e.className || ''), parseFloat(s.outlineWidth)];"
        )
        order.append(tag)
        outlines.append(width)
        if tag.startswith("BODY"):
            break
    reached = (
        "A.skip",
        "DIV.track",
        "AUDIO.",
        "BUTTON.button",
        "INPUT.name",
        "SELECT.corpus",
        "SELECT.sort",
        "DIV.scroll list",
    )
    assert set(reached) <= set(order), order
    first = [order.index(tag) for tag in reached if tag != "BUTTON.button"]
    assert first == sorted(first) and "BUTTON.button" in order
    assert all(width >= 2 for tag, width in zip(order, outlines, strict=True) if tag != "AUDIO." and "BODY" not in tag)
    row = driver.find_elements("css selector", ".dialogues tbody button")[0]
    driver.execute_script("arguments[0].focus();", row)
    ActionChains(driver).send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ENTER).perform()
    assert driver.switch_to.active_element.text == "call from 90"
    assert driver.find_element("css selector", "[data-dialogues] figcaption b").text == "call from 90"
    assert driver.find_element("css selector", "[aria-current]").text.startswith("call from 90")
    driver.execute_async_script(
        "const done = arguments[0], a = document.querySelector('[data-dialogues] audio');"
        "const ready = () => a.readyState >= 2 ? done() : setTimeout(ready, 20); ready();"
    )
    ActionChains(driver).send_keys(Keys.ENTER).perform()  # again: plays
    assert driver.execute_async_script(
        "const done = arguments[0], a = document.querySelector('[data-dialogues] audio');"
        "const wait = () => a.paused ? setTimeout(wait, 20) : (a.pause(), done(true)); wait();"
    )
    track = driver.find_element("css selector", "[data-dialogues] .track")
    offset = data_of(page)[1]["offset"]
    track.send_keys(Keys.HOME)
    for key, expected in ((Keys.ARROW_RIGHT, 1.0), (Keys.PAGE_UP, 6.0), (Keys.ARROW_LEFT, 5.0), (Keys.END, 24.0)):
        track.send_keys(key)
        assert driver.execute_script(NOW) - offset == pytest.approx(expected, abs=0.05)
    track.send_keys("+")
    assert (
        driver.execute_script("return arguments[0].clientWidth / arguments[0].closest('.scroller').clientWidth;", track)
        > 1.9
    )
    place = driver.execute_script(
        "const s = document.querySelector('.scroller').getBoundingClientRect();"
        "return document.querySelector('.playhead').getBoundingClientRect().left - s.left - s.width;"
    )
    assert place <= 0  # the end is in view
    assert browser.console_errors(driver) == []


CONTRAST = """
const channel = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
const parse = (c) => c.match(/[\\d.]+/g).map(Number);
const light = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0.99) return c; } return [255, 255, 255]; };
const poor = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.getClientRects().length || e.closest('script, style, option, :disabled, svg')) continue;
  const [one, other] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
  const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  if (ratio < 4.5) poor.push([e.tagName, e.className, ratio.toFixed(2), e.textContent.slice(0, 30)]);
}
return poor;
"""


@pytest.mark.parametrize("scheme", ("light", "dark"))
def test_fits_a_phone_and_can_be_read(driver: Any, page: Path, scheme: str) -> None:
    for width in (390, 768, 1280):
        browser.open_page(driver, page, width, scheme)
        assert browser.overflow(driver) <= 0
        assert driver.execute_script("return window.innerWidth;") == width
    assert driver.execute_script(CONTRAST) == []
    browser.open_page(driver, page, 390, scheme)
    choose(driver, HOSTILE)
    assert browser.overflow(driver) <= 0
    # Figures are whole on a phone: no cell of the summary is cut off.
    cut = driver.execute_script(
        "return [...document.querySelectorAll('.stacked tbody td, .stacked tbody th')]"
        ".filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent);"
    )
    assert cut == []


def test_everything_has_a_name(driver: Any, page: Path) -> None:
    browser.open_page(driver, page)
    driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {
        "button",
        "slider",
        "combobox",
        "searchbox",
        "spinbutton",
        "link",
        "image",
        "img",
        "Audio",
        "region",
        "form",
    }
    found: dict[str, int] = {}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if role in roles and not node.get("ignored"):
            found[role] = found.get(role, 0) + 1
            assert node.get("name", {}).get("value"), (role, node.get("properties"))
    assert {"button", "slider", "combobox", "searchbox", "spinbutton", "link"} <= set(found)


def test_figures_of_each_dialogue_are_its_own(corpora: list[Corpus]) -> None:
    """Against the summary of that conversation alone."""
    for corpus in corpora:
        events: Events = corpus.events
        columns = figure_columns([(events, corpus.figures)])
        rows = figure_rows(columns, events, corpus.figures)
        for index, row in enumerate(rows):
            alone = summarise(select_conversations(events, [index]))
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


def test_lost_sound_is_named_and_the_page_stands(corpora: list[Corpus], tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF nothing")
    lost = [Recording([broken]), Recording([tmp_path / "gone.wav"]), *corpora[0].recordings[2:]]
    changed = Corpus("generated", corpora[0].names, corpora[0].events, lost)
    report = write(tmp_path / "index.html", [changed, corpora[1]])
    assert [name for name, _ in report.unreadable] == ["call from 30", "call from 90"]
    assert "broken.wav" in report.unreadable[0][1] and "gone.wav" in report.unreadable[1][1]
    assert "gone.wav" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_command_on_files_with_hostile_names(driver: Any, shared: Path, tmp_path: Path) -> None:
    """The command itself, from files whose names are markup, quotes, spaces and no UTF-8, to a page that plays them."""
    call = shared / "speech" / "calls" / "google_two_channel.flac"
    names = ["<img src=x onerror=alert(1)>", "a 'b' \"c\" & #d?%20", os.fsdecode(b"\xff\xfe"), "會話" * 20]
    (tmp_path / "made").mkdir()
    for name in names:
        shutil.copyfile(call, tmp_path / "made" / f"{name}.flac")
    command = [
        sys.executable,
        str(ROOT / "scripts" / "evaluate_dialogue.py"),
        str(tmp_path / "made"),
        "--vad",
        "energy",
    ]
    command += ["--reference", str(call), "--out", str(tmp_path / "out"), "--jobs", "1", "--embed-megabytes", "0.6"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    page = tmp_path / "out" / "index.html"
    browser.open_page(driver, page)
    shown = names_shown(driver)
    assert len(shown) == 5 and set(names[:2]) | {names[3]} <= set(shown)
    sources = []
    for number in range(len(shown)):
        found = driver.execute_async_script(
            "const done = arguments[1], b = document.querySelectorAll('.dialogues tbody button')[arguments[0]];"
            "if (!b.closest('tr').hasAttribute('aria-current')) b.click();"
            "const a = document.querySelector('[data-dialogues] audio'); a.play();"
            "const wait = () => a.error ? done(null) : a.currentTime > 0.2 ?"
            " done([a.currentSrc.slice(0, 5), a.duration]) : setTimeout(wait, 20); wait();",
            number,
        )
        assert found is not None, shown[number]
        assert found[1] == pytest.approx(6.665, abs=0.05)
        sources.append(found[0])
    assert set(sources) == {"data:", "file:"}
    assert browser.console_errors(driver) == [] and browser.overflow(driver) <= 0


def test_long_lists_come_in_steps(driver: Any, tmp_path: Path) -> None:
    """A hundred rows at first; sorting and filtering are over all of them."""
    count = 230
    events = find_events_of_many([([[(0.5, 1.0 + n / 50)], []], 10.0) for n in range(count)])
    corpus = Corpus("generated", [f"talk {n}" for n in range(count)], events)
    report = write_page(tmp_path / "index.html", {"generated": summarise(events)}, [corpus])
    assert report.silent == count
    browser.open_page(driver, tmp_path / "index.html")
    assert names_shown(driver) == [f"talk {n}" for n in range(100)]
    more = driver.find_element("css selector", ".more")
    driver.execute_script("arguments[0].click();", more)
    assert len(names_shown(driver)) == 200 and driver.switch_to.active_element.text == "talk 100"
    driver.execute_script("arguments[0].click();", more)
    assert len(names_shown(driver)) == count and not more.is_displayed()
    heads = driver.find_elements("css selector", ".dialogues thead button")
    driver.execute_script("arguments[0].click();", heads[2])  # speech of A
    assert names_shown(driver)[:2] == ["talk 229", "talk 228"]
    driver.find_element("name", "name").send_keys("talk 15")
    assert names_shown(driver) == [f"talk {n}" for n in (*range(159, 149, -1), 15)]
    assert browser.console_errors(driver) == []


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    empty = find_events_of_many([([[]], 10.0)])
    corpus = Corpus("generated", ["mute"], empty)
    write_page(tmp_path / "index.html", {"generated": summarise(empty)}, [corpus])
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "no speech was found" in text and "one channel only" in text and "None found" in text
    assert "NaN" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
