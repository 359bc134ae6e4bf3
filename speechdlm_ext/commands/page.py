"""Options of commands that write a page to listen, and which items are on it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from speechdlm_ext.commands.old_names import add_renamed
from speechdlm_ext.errors import InputError

Item = TypeVar("Item")


def add_page_options(parser: argparse.ArgumentParser, help: str) -> None:
    """``--html`` and ``--html-items``, how many items :func:`spread` takes."""
    add_renamed(parser, "--html", "--page", type=Path, metavar="FILE", help=help)
    add_renamed(
        parser, "--html-items", "--page-items", type=int, default=6, help="items on the page (default: %(default)s)"
    )


def check_page_options(options: argparse.Namespace) -> None:
    """Raise an InputError where no items are asked for; before the work, not after it."""
    if options.html_items < 1:
        raise InputError(f"--html-items {options.html_items}: 1 or more is expected")


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """So many of the items, at even distances."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]
