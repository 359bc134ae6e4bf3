"""Callbacks around imports: on modules written for the test, in the order in which programs meet them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from speechdlm_ext.compat import activate, after_import, report
from speechdlm_ext.compat.imports import PostImportFinder, around_import, supply_module


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
    rows = report()
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.package and row.fault and row.versions for row in rows)
    assert {row.name for row in rows if not row.active} <= {"typing-io", "hydra-plugins", "fairseq-config-defaults"} | {
        "hydra-config-defaults",
        "numpy-aliases",
    }
