"""The list of dialogues on the page of an evaluation, in a real Chromium: sorted, filtered, and as long as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from speechdlm_ext.metrics.summary import summarize
from speechdlm_ext.metrics.turn_taking import find_events_of_many
from speechdlm_ext.report.dialogues import figure_columns, figure_rows
from speechdlm_ext.report.evaluation import PageCorpus, write_page
from tests.helpers import browser
from tests.helpers.calls import names_shown


def test_every_column_sorts(driver: Any, page: Path, corpora: list[PageCorpus]) -> None:
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


def test_search_is_by_name_and_corpus(driver: Any, page: Path, corpora: list[PageCorpus]) -> None:
    from selenium.webdriver import Keys

    browser.open_page(driver, page)
    names = [*corpora[0].names, *corpora[1].names]
    field = driver.find_element("name", "name")
    for words, expected in (("CALL", names[:3]), ("reference", list(corpora[1].names)), ("no such", []), ("", names)):
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(words or Keys.DELETE)
        assert names_shown(driver) == expected
        assert driver.find_element("css selector", "[role=status]").text == f"{len(expected)} of {len(names)} dialogues"


def test_long_lists_come_in_steps(driver: Any, tmp_path: Path) -> None:
    """A hundred rows at first; sorting and filtering are over all of them."""
    count = 230
    events = find_events_of_many([([[(0.5, 1.0 + n / 50)], []], 10.0) for n in range(count)])
    corpus = PageCorpus("generated", [f"talk {n}" for n in range(count)], events)
    report = write_page(tmp_path / "index.html", {"generated": summarize(events)}, [corpus])
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
