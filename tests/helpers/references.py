"""Outputs of the public code on small models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.commands import CHECKOUT


def reference_path(name: str) -> Path:
    """A path below ``tests/data/reference``, else below ``../shared/reference``; skips the test where neither is."""
    places = [CHECKOUT / "tests" / "data" / "reference" / name, CHECKOUT.parent / "shared" / "reference" / name]
    for place in places:
        if place.exists():
            return place
    pytest.skip(f"needs {places[-1]}")
