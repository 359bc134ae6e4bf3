"""Report pages in a real Chromium: they load clean, play, seek, and fit a phone."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechdlm_ext.report.charts import Curve, Level, line_chart, ticks
from speechdlm_ext.report.page import Section, render_page, table
from speechdlm_ext.report.player import Player
from speechdlm_ext.report.sound import LEVELS, audio_uri, outline
from tests.helpers import browser

RATE = 16000
ACTIVITY = [[(0.5, 1.5), (2.0, 2.5)], [(1.2, 3.8)]]


def make_timeline(title: str, seconds: float) -> Player:
    time = np.arange(round(seconds * RATE)) / RATE
    wave = np.stack([0.3 * np.sin(2 * np.pi * 220 * time), 0.2 * np.sin(2 * np.pi * 330 * time)]).astype(np.float32)
    for channel, stretches in enumerate(ACTIVITY):
        gate = np.zeros(len(time), np.float32)
        for start, end in stretches:
            gate[round(start * RATE) : round(end * RATE)] = 1
        wave[channel] *= gate
    parts = [("prompt", 0.0, 1.0), ("continuation", 1.0, seconds)]
    return Player.of_wave(title, wave, RATE, ACTIVITY, parts, 'seed "7" & more')


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    long_word = "a-very-long-command-" * 12
    players = make_timeline("First <sample>", 4.0).render() + make_timeline("Second", 6.5).render()
    curves = [Curve("training", [(1, 7.0), (50, 4.5), (100, 3.9)]), Curve("held out", [(50, 5.0), (100, 4.2)], True)]
    body = line_chart(curves, "updates", "Bits", [Level("bigram", 4.6)])
    rows = [["Gaps", "7.5\n0.20 s", "6.1\n0.18 s", "6.6\n0.19 s"]] * 3
    html = render_page(
        "A page & its <title>",
        "About it.",
        [
            Section("listen", "Listen", f'<div class="samples">{players}</div>', "Hear."),
            Section("charts", "Charts", body),
            Section("figures", "Figures", table(["", "Generated", "Real continuation", "Corpus"], rows)),
            Section(
                "commands",
                "Commands",
                f'<ol class="steps"><li><div class="command"><pre><code>{long_word}</code></pre>'
                '<button type="button" data-copy>Copy</button></div></li></ol>',
            ),
        ],
    )
    path = tmp_path_factory.mktemp("page") / "a page.html"
    path.write_text(html, encoding="utf-8")
    return path


def test_loads_clean_from_disk(driver: Any, page: Path) -> None:
    browser.open_page(driver, page)
    assert browser.console_errors(driver) == []
    assert driver.title == "A page & its <title>"
    fetched = driver.execute_script("return performance.getEntriesByType('resource').map((e) => e.name);")
    assert all(name.startswith(("data:", "file:")) for name in fetched)
    text = re.sub(r"data:[^\"']*", "", page.read_text(encoding="utf-8"))
    assert "http" not in text.replace('"http://www.w3.org/2000/svg"', "")  # a name, not an address


def test_players_have_their_length_and_plots_have_content(driver: Any, page: Path) -> None:
    browser.open_page(driver, page)
    lengths = driver.execute_script("return [...document.querySelectorAll('audio')].map((a) => a.duration);")
    assert lengths == [pytest.approx(4.0, abs=0.01), pytest.approx(6.5, abs=0.01)]
    # Speech lies where it was said to, in pixels on the screen.
    boxes = driver.execute_script(
        "const t = document.querySelector('.track').getBoundingClientRect();"
        "return [...document.querySelectorAll('figure')[0].querySelectorAll('.channel')].map((c) =>"
        " [...c.querySelectorAll('rect.speech')].map((r) => { const b = r.getBoundingClientRect();"
        " return [(b.left - t.left) / t.width, (b.right - t.left) / t.width]; }));"
    )
    for found, true in zip(boxes, ACTIVITY, strict=True):
        assert np.allclose(np.array(found) * 4.0, true, atol=0.02)
    shapes = driver.execute_script(
        "return [...document.querySelectorAll('path')].map((p) => p.getBoundingClientRect())"
        ".map((b) => [b.width, b.height]);"
    )
    assert len(shapes) == 6 and all(width > 50 and height > 5 for width, height in shapes)


def test_click_and_keys_seek_and_play(driver: Any, page: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    browser.open_page(driver, page)
    track = driver.find_element("css selector", ".track")
    now = "return document.querySelector('audio').currentTime;"
    ActionChains(driver).move_to_element(track).click().perform()
    assert driver.execute_script(now) == pytest.approx(2.0, abs=0.05)
    head = driver.find_element("css selector", ".playhead")
    middle = track.rect["x"] + track.rect["width"] / 2
    browser.wait_until(driver, lambda: head.rect["x"] == pytest.approx(middle, abs=4))
    for key, expected in ((Keys.ARROW_RIGHT, 3.0), (Keys.ARROW_LEFT, 2.0), (Keys.HOME, 0.0), (Keys.END, 4.0)):
        track.send_keys(key)
        assert driver.execute_script(now) == pytest.approx(expected, abs=0.05)
        assert float(track.get_attribute("aria-valuenow")) == pytest.approx(expected, abs=0.1)
    track.send_keys(Keys.HOME)
    track.send_keys(Keys.SPACE)
    second = driver.find_elements("css selector", ".track")[1]
    moved = driver.execute_async_script(
        "const done = arguments[0], a = document.querySelector('audio'), h = document.querySelector('.playhead');"
        "const state = () => [a.paused, parseFloat(h.style.left)];"
        "const wait = () => a.currentTime > 0.4 && state()[1] > 5 ? done(state()) : setTimeout(wait, 50); wait();"
    )
    assert moved[0] is False and moved[1] > 5  # plays, and the playhead has followed
    second.send_keys(Keys.ENTER)
    driver.execute_async_script(
        "const done = arguments[0], a = [...document.querySelectorAll('audio')];"
        "const wait = () => !a[1].paused && a[0].paused ? done() : setTimeout(wait, 50); wait();"
    )
    assert browser.console_errors(driver) == []


def test_everything_is_reached_by_tab(driver: Any, page: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    browser.open_page(driver, page)
    seen = set()
    for _ in range(60):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        seen.add(driver.execute_script("const e = document.activeElement; return e.tagName + '.' + e.className;"))
    assert {"A.skip", "A.", "DIV.track", "AUDIO.", "BUTTON."} <= seen


@pytest.mark.parametrize("width", (390, 768, 1280))
@pytest.mark.parametrize("scheme", ("light", "dark"))
def test_fits_any_width_in_light_and_dark(driver: Any, page: Path, width: int, scheme: str) -> None:
    browser.open_page(driver, page, width, scheme)
    assert browser.overflow(driver) <= 0
    assert driver.execute_script("return window.innerWidth;") == width
    colours = driver.execute_script(
        "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor].map((c) => c.match(/\\d+/g));"
    )
    ink, paper = (sum(map(int, channels[:3])) / 3 for channels in colours)
    assert (ink > paper) is (scheme == "dark") and abs(ink - paper) > 150


def test_sound_survives_the_data_address() -> None:
    wave = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 4000)).astype(np.float32)
    data = base64.b64decode(audio_uri(wave, RATE).partition(",")[2])
    back, rate = soundfile.read(io.BytesIO(data))
    assert rate == RATE and np.allclose(back.T, wave, atol=1 / 32000)


def test_outline_follows_the_peaks() -> None:
    wave = np.zeros(1000, np.float32)
    wave[500:600] = -1.0
    wave[700:710] = 0.25
    assert outline(wave, 10) == "AAAAA" + LEVELS[63] + "A" + LEVELS[32] + "AA"  # sqrt(0.25) of 63, rounded
    assert outline(np.zeros(0, np.float32), 10) == "A" * 10
    assert outline(np.ones(3, np.float32), 10).count(LEVELS[63]) == 3  # fewer samples than columns


@pytest.mark.parametrize(("low", "high"), ((0, 1), (3.2, 7.9), (0, 12345), (1e-5, 3e-5), (5, 5)))
def test_ticks_are_round_and_span(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 9


def test_charts_without_figures_say_so() -> None:
    assert "No data" in line_chart([Curve("training", [])], "updates", "bits")
    assert "No data" in line_chart([Curve("training", [(1, float("nan"))])], "updates", "bits")
