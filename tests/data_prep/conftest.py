"""Commands in the process of the tests."""

from __future__ import annotations

import io
import runpy
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def here(checkout: Path) -> Callable[..., tuple[int, str, str]]:
    """``here(script, *arguments)``: status and output of a command in this process, where torch is loaded already."""

    def run(script: str, *arguments: object) -> tuple[int, str, str]:
        before, sys.argv = sys.argv, [script, *map(str, arguments)]
        out, err = io.StringIO(), io.StringIO()
        try:
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
                runpy.run_path(str(checkout / script), run_name="__main__")
        finally:
            sys.argv = before
        return int(ended.value.code or 0), out.getvalue(), err.getvalue()

    return run
