"""Old names of options: they keep working, and the help does not show them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any


def add_old_names(parser: argparse._ActionsContainer, names: Mapping[str, str]) -> None:
    """Make old names of options the same as the new ones.

    Args:
        parser: a parser that has the new ones, or a group of one.
        names: new name by old name, as ``{"--out": "--output"}``.
    """
    actions = parser._option_string_actions  # argparse has no public way to keep a name out of the help
    for old, new in names.items():
        actions[old] = actions[new]


def add_renamed(parser: argparse._ActionsContainer, name: str, *old: str, **settings: Any) -> argparse.Action:
    """``parser.add_argument(name, **settings)``, under its old names, too."""
    action = parser.add_argument(name, **settings)
    add_old_names(parser, dict.fromkeys(old, name))
    return action
