"""Options that had another name before, which still works and is not in the help."""

from __future__ import annotations

import argparse
from typing import Any


def add_renamed(parser: argparse._ActionsContainer, name: str, *old: str, **settings: Any) -> argparse.Action:
    """``parser.add_argument(name, **settings)``, under its old names, too.

    Args:
        parser: a parser or a group of one.
        name: of the option.
        old: names that it had before.
        settings: of ``add_argument``.
    """
    action = parser.add_argument(name, **settings)
    settings = {key: value for key, value in settings.items() if key not in ("required", "metavar")}
    settings |= {"dest": action.dest, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    for alias in old:
        parser.add_argument(alias, **settings)
    return action
