"""Old names of options: they go on working, and the help does not show them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping


def add_old_names(parser: argparse.ArgumentParser, names: Mapping[str, str]) -> None:
    """Make old names of options the same as the new ones.

    Args:
        parser: that has the new ones.
        names: new name by old name, as ``{"--out": "--output"}``.
    """
    actions = parser._option_string_actions  # argparse has no public way to keep a name out of the help
    for old, new in names.items():
        actions[old] = actions[new]
