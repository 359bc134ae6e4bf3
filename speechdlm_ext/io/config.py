"""Configurations in JSON and YAML files, and JSON files in general."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.atomic import atomic_write


def read_config(path: str | os.PathLike[str], section: str | None = None) -> dict[str, Any]:
    """The object in a ``.json`` file, or another file of YAML.

    Args:
        path: the file.
        section: the name of a part of it that is returned instead, where there is such a part.

    Raises:
        InputError: the file is missing or damaged, or holds something else than an object.
    """
    kind = "JSON" if os.fspath(path).endswith(".json") else "YAML"
    try:
        text = Path(path).read_text(encoding="utf-8")
        found = json.loads(text) if kind == "JSON" else yaml.safe_load(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not {kind} ({one_line(error)[:200]})") from None
    if isinstance(found, dict) and section in found:
        found = found[section]
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a mapping, found {type(found).__name__}")
    return found


def write_json(path: str | os.PathLike[str], value: Any, sort_keys: bool = False) -> None:
    """Write a value as JSON, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, sort_keys=sort_keys)
        file.write("\n")
