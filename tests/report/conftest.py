"""One browser, and one page of calls, for the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from speechdlm_ext.report.evaluation import PageCorpus, PageReport
from tests.helpers import browser, calls


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use the browser are in the group ``browser``."""
    for item in items:
        if {"chromium", "driver"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """One browser for all pages."""
    with browser.open_browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def driver(chromium: Any) -> Any:
    """The same, without what the pages of another file have complained about."""
    chromium.get_log("browser")
    return chromium


@pytest.fixture(scope="session")
def corpora(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[PageCorpus]:
    """Of calls and meetings; see :func:`calls.make_corpora`."""
    return calls.make_corpora(data, tmp_path_factory.mktemp("generated"))


@pytest.fixture(scope="session")
def written(corpora: list[PageCorpus], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PageReport]:
    """Their page, and what its writer says about it."""
    path = tmp_path_factory.mktemp("a page's folder") / "index.html"
    return path, calls.write(path, corpora)


@pytest.fixture(scope="session")
def page(written: tuple[Path, PageReport]) -> Path:
    """Their page."""
    return written[0]
