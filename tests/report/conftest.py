"""One browser for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.report import browser


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser.open_browser() as driver:
        yield driver
