"""The player on the page of an evaluation, in a real Chromium: it plays, seeks, follows, and shows what was found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechdlm_ext.evaluation.schema import EVENTS
from speechdlm_ext.metrics.events import select_conversations
from speechdlm_ext.report.evaluation import PageCorpus
from tests.helpers import browser
from tests.helpers.calls import HOSTILE, LEAD, NOW, choose, data_of, names_shown

ROOT = Path(__file__).parents[2]


def test_loads_clean_and_hostile_names_are_only_names(driver: Any, page: Path, corpora: list[PageCorpus]) -> None:
    browser.open_page(driver, page)
    assert browser.console_errors(driver) == []
    assert driver.title == "Turn-taking evaluation"
    assert names_shown(driver) == [*corpora[0].names, *corpora[1].names]
    choose(driver, HOSTILE)
    assert driver.find_element("css selector", "[data-dialogues] figcaption b").get_attribute("textContent") == HOSTILE
    assert driver.title == "Turn-taking evaluation"
    assert [row["title"] for row in data_of(page)] == [*corpora[0].names, *corpora[1].names]
    text = re.sub(r"data:[^\"']*", "", page.read_text(encoding="utf-8"))
    assert "http" not in text.replace('"http://www.w3.org/2000/svg"', "")
    kinds = driver.execute_script("return [...document.querySelectorAll('.grid figcaption')].map((e) => e.innerText);")
    assert [kind.split("\n")[0] for kind in kinds] == [label for label, _ in EVENTS.values()]
    assert browser.console_errors(driver) == []


@pytest.mark.parametrize("name", ("call from 5", "call from 20", HOSTILE, "two files", "tst00"))
def test_plays_seeks_and_follows(driver: Any, page: Path, corpora: list[PageCorpus], name: str) -> None:
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


def test_what_is_drawn_is_what_was_found(driver: Any, page: Path, corpora: list[PageCorpus]) -> None:
    """Gaps, overlaps, pauses and each channel's speech lie, in pixels, where the events say; the prompt comes first."""
    browser.open_page(driver, page)
    choose(driver, "call from 36")
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
    offset = data_of(page)[1]["offset"]
    driver.execute_script("document.querySelector('[data-dialogues] audio').currentTime = arguments[0];", offset + 2)
    browser.wait_until(driver, lambda: readout.text.startswith("2.0 s · before the measured part"))
    gap = events.gaps[0]
    inside = (gap.start + gap.end) / 2
    time = offset + LEAD + inside
    driver.execute_script("document.querySelector('[data-dialogues] audio').currentTime = arguments[0];", time)
    browser.wait_until(driver, lambda: f"gap of {gap.duration:.2f} s" in readout.text)
    assert f"gap of {gap.duration:.2f} s" in track.get_attribute("aria-valuetext")
    counts = driver.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('.jump')]"
        ".map((b) => [b.classList[1], Number(b.querySelector('b').textContent)]));"
    )
    assert counts["gap"] == len(events.gaps) and counts["backchannel"] == len(events.backchannels)


def astuple(event: Any) -> tuple[float, float, tuple[int, ...]]:
    return event.start, event.end, event.channels


def test_legend_jumps_to_the_next_event(driver: Any, page: Path, corpora: list[PageCorpus]) -> None:
    browser.open_page(driver, page)
    choose(driver, "call from 36")
    starts = [event.start + LEAD for event in select_conversations(corpora[0].events, [1]).gaps]
    offset = data_of(page)[1]["offset"]
    button = driver.find_element("css selector", ".jump.gap")
    for start in [*starts, starts[0]]:  # after the last comes the first
        button.click()
        assert driver.execute_script(NOW) - offset == pytest.approx(max(0, start - 1), abs=0.03)


def test_command_on_files_with_hostile_names(driver: Any, data: Path, tmp_path: Path) -> None:
    """The command itself, from files whose names are markup, quotes, spaces and no UTF-8, to a page that plays them."""
    call = data / "speech" / "calls" / "google_two_channel.flac"
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
    command += ["--reference", str(call), "--output", str(tmp_path / "out"), "--num-workers", "1"]
    command += ["--embed-megabytes", "0.6"]
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
