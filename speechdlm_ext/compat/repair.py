"""What a repair is: the fault that it mends, the versions that have it, and how it is applied."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Repair:
    """One fault of one package, and its cure.

    Attributes:
        name: a short name, unique.
        package: the package that is repaired.
        fault: what goes wrong without the repair.
        versions: in words, the versions that it applies to.
        needed: whether the installed versions have the fault; imports nothing.
        apply: makes the repair, mostly by :func:`.imports.after_import`; imports nothing heavy.
    """

    name: str
    package: str
    fault: str
    versions: str
    needed: Callable[[], bool]
    apply: Callable[[], object]


@dataclass(frozen=True)
class RepairState:
    """A line of :func:`speechdlm_ext.compat.report`."""

    name: str
    package: str
    fault: str
    versions: str
    active: bool


@cache
def installed_version(distribution: str) -> tuple[int, ...] | None:
    """The leading numbers of the installed version, as in (2, 11, 0), or None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        text = version(distribution)
    except PackageNotFoundError:
        return None
    numbers = []
    for part in text.split("+")[0].split("."):
        digits = "".join(character for character in part if character.isdigit())
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def at_least(distribution: str, *version: int) -> bool:
    """Whether the distribution is installed in this version or a later one."""
    found = installed_version(distribution)
    return found is not None and found >= version


def below(distribution: str, *version: int) -> bool:
    """Whether the distribution is installed in an earlier version."""
    found = installed_version(distribution)
    return found is not None and found < version


def python_at_least(*version: int) -> bool:
    """Whether this interpreter is of that version or a later one."""
    return sys.version_info >= version


def always() -> bool:
    """For faults that every version has."""
    return True
