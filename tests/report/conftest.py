"""One browser, and one page of calls, for the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from speechdlm_ext.report.evaluation import Corpus, PageReport
from tests.helpers import browser, calls


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
def corpora(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Corpus]:
    """Of calls and meetings; see :func:`calls.make_corpora`."""
    return calls.make_corpora(data, tmp_path_factory.mktemp("generated"))


@pytest.fixture(scope="session")
def written(corpora: list[Corpus], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PageReport]:
    """Their page, and what its writer says about it."""
    path = tmp_path_factory.mktemp("a page's folder") / "index.html"
    return path, calls.write(path, corpora)


@pytest.fixture(scope="session")
def page(written: tuple[Path, PageReport]) -> Path:
    """Their page."""
    return written[0]
