"""What a repair is: the fault that it mends, the versions that have it, and what it changes in which module."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

from .errors import one_line
from .imports import after_import

_misfits: dict[str, str] = {}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def always() -> bool:
    """For faults that every version has."""
    return True


@dataclass(frozen=True)
class Repair:
    """One fault of one package, and its cure.

    A change that does not fit (the package has no such function, …) costs one line on standard error and is skipped,
    unless the repair is one of security: then the import fails, in one line too.

    Attributes:
        name: a short name, unique.
        package: the distribution that is repaired.
        fault: what goes wrong without the repair.
        changes: by module, or ``package.*`` for all modules below, what to do with it when it has been imported.
        at_once: what to do at the start, before any import; imports nothing heavy.
        versions: in words, the versions that it applies to.
        needed: whether the installed versions have the fault; imports nothing.
        security: without it, files could run code or write anywhere.
    """

    name: str
    package: str
    fault: str
    changes: Mapping[str, Callable[[Any], object]] = field(default_factory=dict)
    at_once: Callable[[], object] | None = None
    versions: str = "all"
    needed: Callable[[], bool] = always
    security: bool = False

    def make(self) -> None:
        """Do what is to be done now, and see to it that each module is changed when it has been imported."""
        if self.at_once is not None:
            self._try(self.at_once)
        for module_name, change in self.changes.items():
            after_import(module_name, functools.partial(self._change, change))

    def misfit(self) -> str:
        """ "in force", or "skipped: " and why, as far as the modules have been imported."""
        return f"skipped: {_misfits[self.name]}" if self.name in _misfits else "in force"

    def _change(self, change: Callable[[Any], object], module: ModuleType) -> None:
        self._try(lambda: change(module))

    def _try(self, change: Callable[[], object]) -> None:
        try:
            change()
        except Exception as error:
            found = ".".join(map(str, installed_version(self.package) or ("?",)))
            reason = f"it does not fit {self.package} {found} ({type(error).__name__}: {one_line(error)})"
            if self.security:
                raise ImportError(
                    f"speechdlm_ext's repair {self.name!r} is needed for safety, and {reason}: install the version in "
                    "its constraints.txt"
                ) from error
            if self.name not in _misfits and sys.stderr is not None:
                print(f"speechdlm_ext: repair {self.name!r} is skipped: {reason}", file=sys.stderr, flush=True)
            _misfits[self.name] = reason


def replace(owner: Any, name: str) -> Callable[[_Function], _Function]:
    """Decorator: the function takes the place of ``owner.name``, whose name and docstring it gets.

    Raises:
        AttributeError: there is nothing of that name: this is not what the repair was written for.
    """
    original = getattr(owner, name)

    def put(function: _Function) -> _Function:
        setattr(owner, name, functools.wraps(original)(function))
        return function

    return put


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
