"""Callbacks around imports: on modules written for the test, in the order in which programs meet them."""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from speechdlm_ext.compat import activate, after_import, report
from speechdlm_ext.compat.imports import PostImportFinder, around_import, supply_module
from speechdlm_ext.compat.repair import Repair, replace


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a package of two modules, its own for each test, as callbacks stay registered."""
    activate()
    name = "made_" + "".join(character for character in request.node.name if character.isalnum())
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("value = 1\n")
    (folder / "part.py").write_text("value = 2\n")
    (folder / "broken.py").write_text("raise ValueError('as written')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
        del sys.modules[loaded]


def test_a_callback_sees_the_finished_module_once(package: str) -> None:
    seen: list[int] = []
    after_import(package, lambda module: seen.append(module.value))
    assert seen == []
    importlib.import_module(package)
    importlib.import_module(f"{package}.part")
    assert seen == [1]


def test_a_callback_for_a_loaded_module_runs_now(package: str) -> None:
    module = importlib.import_module(package)
    seen: list[ModuleType] = []
    after_import(package, seen.append)
    assert seen == [module]


def test_a_star_means_everything_below_loaded_or_not(package: str) -> None:
    importlib.import_module(f"{package}.part")
    seen: list[str] = []
    after_import(f"{package}.*", lambda module: seen.append(module.__name__))
    with pytest.raises(ValueError, match="as written"):
        importlib.import_module(f"{package}.broken")
    assert seen == [f"{package}.part"]


def test_a_reloaded_module_is_repaired_again(package: str) -> None:
    def repair(module: ModuleType) -> None:
        module.value = 10  # type: ignore[attr-defined]

    after_import(package, repair)
    module = importlib.import_module(package)
    assert importlib.reload(module).value == 10


def test_surroundings_hold_only_while_the_module_runs(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "inside.py").write_text("import sys\nseen = sys.flag_of_the_test\n")

    @contextmanager
    def flag(module: ModuleType) -> Iterator[None]:
        sys.flag_of_the_test = module.__name__  # type: ignore[attr-defined]
        yield
        del sys.flag_of_the_test  # type: ignore[attr-defined]

    around_import(f"{package}.inside", flag)
    assert importlib.import_module(f"{package}.inside").seen == f"{package}.inside"
    assert not hasattr(sys, "flag_of_the_test")


def test_a_supplied_module_gives_way_to_a_real_one(package: str) -> None:
    def fill(module: ModuleType) -> None:
        module.value = 3  # type: ignore[attr-defined]

    supply_module(f"{package}.part", fill)
    supply_module(f"{package}.missing", fill)
    assert importlib.import_module(f"{package}.part").value == 2
    assert importlib.import_module(f"{package}.missing").value == 3


def test_the_loader_keeps_its_class(package: str) -> None:
    import inspect

    after_import(package, lambda module: None)
    module = importlib.import_module(package)
    assert type(module.__spec__.loader).__name__ == "SourceFileLoader"
    assert inspect.getsource(module) == "value = 1\n"


def test_activating_twice_changes_nothing() -> None:
    activate()
    before = [type(finder) for finder in sys.meta_path], sys.excepthook, report()
    activate()
    assert ([type(finder) for finder in sys.meta_path], sys.excepthook, report()) == before
    assert sum(isinstance(finder, PostImportFinder) for finder in sys.meta_path) == 1


def test_every_repair_says_what_it_mends() -> None:
    repairs = [repair for repair, _ in report()]
    assert len({repair.name for repair in repairs}) == len(repairs)
    assert all(repair.package and repair.fault and repair.versions for repair in repairs)
    assert {repair.name for repair in repairs if repair.security} == {
        "checkpoint-loading",
        "archives",
        "evaluated-options",
    }


def test_every_repair_fits_the_fairseq_of_the_constraints() -> None:
    for repair, _ in report():
        for name in repair.changes:
            if not name.endswith("*"):
                importlib.import_module(name)
    states = {repair.name: state for repair, state in report() if state != "in force"}
    assert set(states.values()) <= {"not needed"}
    by_version = {"typing-io", "hydra-plugins", "fairseq-config-defaults", "hydra-config-defaults", "numpy-aliases"}
    assert states.keys() <= by_version | {"bitarray-rindex"}


def _rename(module: ModuleType) -> None:
    replace(module, "no_such_function")(lambda: None)


def test_a_repair_that_does_not_fit_is_skipped_in_one_line(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    repair = Repair("made-up", package, "a fault", changes={package: _rename, f"{package}.part": _rename})
    repair.make()
    assert importlib.import_module(f"{package}.part").value == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'made-up' is skipped" in line and package in line and "no_such_function" in line
    assert repair.misfit().startswith("skipped: ") and "no_such_function" in repair.misfit()


def test_a_repair_of_security_that_does_not_fit_stops_the_import(package: str) -> None:
    Repair("made-up-safety", package, "a fault", changes={package: _rename}, security=True).make()
    with pytest.raises(ImportError, match=r"needed for safety.*no_such_function.*constraints\.txt"):
        importlib.import_module(package)


class _SlottedLoader(importlib.machinery.SourceFileLoader):
    """As some profilers and type checkers put them in: it takes no attribute."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "exec_module":
            raise AttributeError(name)
        super().__setattr__(name, value)


def test_a_loader_that_takes_no_attributes_is_served(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder(importlib.machinery.PathFinder):
        @classmethod
        def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
            spec = super().find_spec(name, path, target)
            if spec is not None and name.startswith(package):
                spec.loader = _SlottedLoader(name, str(spec.origin))
            return spec

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path[:1], Finder, *sys.meta_path[1:]])
    seen: list[str] = []
    after_import(package, lambda module: seen.append(module.__name__))
    module = importlib.import_module(package)
    assert seen == [package] and module.__spec__ is not None
    assert module.__spec__.loader.get_source(package) == "value = 1\n"  # type: ignore[union-attr]
