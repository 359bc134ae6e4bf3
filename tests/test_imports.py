"""Imports between rooms run one way, also those inside functions; read from the source, so that nothing is hidden."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Each group may import those before it, and rooms of one group one another as long as there is no circle.
GROUPS = (
    ("compat", "errors", "neural_types"),
    ("io",),
    ("modules", "metrics"),
    ("encoders", "vad", "asr"),
    ("units", "vocoders", "codecs", "data", "generation"),
    ("models",),
    ("criterions", "tasks", "optim", "checkpoints"),
    ("hub",),
    ("evaluation", "report", "synthetic", "demo", "commands", "cluster"),
    ("plugin", "__main__", "__init__"),
    ("data_prep", "scripts"),
)
LEVEL = {room: level for level, group in enumerate(GROUPS) for room in group}


def _imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """The dotted names that a file of this package imports, as far as they are modules or might be."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *filter(None, [node.module])))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _room(parts: tuple[str, ...]) -> str | None:
    if parts[0] == "speechdlm_ext":
        return parts[1].removesuffix(".py") if len(parts) > 1 else "__init__"
    return parts[0] if parts[0] in ("data_prep", "scripts") else None


@cache
def _edges(checkout: Path) -> list[tuple[str, str, str]]:
    """Files, each with its room and another room that it imports."""
    edges = []
    for top in ("speechdlm_ext", "data_prep", "scripts"):
        for path in sorted((checkout / top).rglob("*.py")):
            parts = path.relative_to(checkout).parts
            room = _room(parts)
            for name in sorted(set(_imported(ast.parse(path.read_text(encoding="utf-8")), parts[:-1]))):
                other = _room(tuple(name.split(".")))
                if room is not None and other in LEVEL and other != room:
                    edges.append((path.relative_to(checkout).as_posix(), room, other))
    return edges


def _circles(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those arrows from whose end a way leads back to their start."""

    def reach(start: str) -> set[str]:
        found: set[str] = set()
        pending = [start]
        while pending:
            room = pending.pop()
            pending += {end for begin, end in arrows if begin == room} - found
            found |= {end for begin, end in arrows if begin == room}
        return found

    return {(begin, end) for begin, end in arrows if begin in reach(end)}


def test_every_room_has_its_place(checkout: Path) -> None:
    for path in (checkout / "speechdlm_ext").iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists() or any(path.glob("*.py")):
            assert path.stem in LEVEL, f"{path.name} has no place among the groups: see CONTRIBUTING.md"


def test_no_room_imports_one_above_it(checkout: Path) -> None:
    upwards = {(file, other) for file, room, other in _edges(checkout) if LEVEL[other] > LEVEL[room]}
    assert not upwards, f"imports upwards: {sorted(upwards)}"


def test_rooms_of_a_group_form_no_circle(checkout: Path) -> None:
    arrows = {(room, other) for _, room, other in _edges(checkout) if LEVEL[other] == LEVEL[room]}
    assert not _circles(arrows), f"circles: {sorted(_circles(arrows))}"


def test_an_import_within_a_function_counts() -> None:
    source = "def f():\n    from ..hub import load\n    import speechdlm_ext.report.page\n"
    found = set(_imported(ast.parse(source), ("speechdlm_ext", "models")))
    assert found == {"speechdlm_ext.hub.load", "speechdlm_ext.report.page"}
    assert _circles({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")}) == {("a", "b"), ("b", "c"), ("c", "a")}
