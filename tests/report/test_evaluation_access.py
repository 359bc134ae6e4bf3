"""The page of an evaluation for everybody, in a real Chromium: by keys, on a phone, in light and dark, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import browser
from tests.helpers.calls import HOSTILE, NOW, choose, data_of


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
        "DIV.scroll list",
    )
    assert set(reached) <= set(order), order
    first = [order.index(tag) for tag in reached if tag != "BUTTON.button"]
    assert first == sorted(first) and "BUTTON.button" in order
    assert all(width >= 2 for tag, width in zip(order, outlines, strict=True) if tag != "AUDIO." and "BODY" not in tag)
    row = driver.find_elements("css selector", ".dialogues tbody button")[0]
    driver.execute_script("arguments[0].focus();", row)
    ActionChains(driver).send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ENTER).perform()
    assert driver.switch_to.active_element.text == "call from 36"
    assert driver.find_element("css selector", "[data-dialogues] figcaption b").text == "call from 36"
    assert driver.find_element("css selector", "[aria-current]").text.startswith("call from 36")
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
        "searchbox",
        "link",
        "image",
        "img",
        "Audio",
        "region",
    }
    found: dict[str, int] = {}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if role in roles and not node.get("ignored"):
            found[role] = found.get(role, 0) + 1
            assert node.get("name", {}).get("value"), (role, node.get("properties"))
    assert {"button", "slider", "searchbox", "link"} <= set(found)
