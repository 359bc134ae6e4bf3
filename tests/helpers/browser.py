"""A real headless Chromium for tests of pages."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # a container's is small
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)


@contextmanager
def open_browser() -> Iterator[Any]:
    """A driver of Chromium; skips the test, saying why, where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the extra [dev]: pip install '.[dev]'")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver_path = shutil.which("chromedriver")
    if not browser or not driver_path:
        pytest.skip("no Chromium to test pages in: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = _start(lambda: webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path)))
        try:
            yield driver
        finally:
            driver.quit()


def _start(make: Callable[[], Any]) -> Any:
    """Start a browser, and once more where it did not come up: on a busy machine it may not within its minute."""
    from selenium.common.exceptions import WebDriverException

    try:
        return make()
    except WebDriverException:
        return make()


def open_page(driver: Any, path: Path, width: int = 1280, scheme: str = "light") -> None:
    """Open a file at a width in CSS pixels, in light or dark, and wait for its players."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    # Without smooth scrolling, so that what is clicked stands still.
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(path.resolve().as_uri())
    driver.set_script_timeout(120)
    driver.execute_async_script(
        "const done = arguments[0], all = [...document.querySelectorAll('audio')];"
        "const ready = () => all.every((a) => a.readyState >= 1 || a.error) ? done() : setTimeout(ready, 50); ready();"
    )


def wait_until(driver: Any, condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something to become true; an error of selenium's if it does not."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(driver, seconds, 0.05).until(lambda _: condition())


def console_errors(driver: Any) -> list[str]:
    """What the console has complained about since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def overflow(driver: Any) -> int:
    """Pixels by which the page is wider than its window."""
    return int(
        driver.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth;")
    )
