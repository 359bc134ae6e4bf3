"""Published configurations of models: YAML or JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from speechdlm_ext.errors import InputError, one_line


def read_model_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A model's configuration: all of a YAML or JSON file, or its section ``model``.

    Raises:
        InputError: it is missing, or no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = json.loads(text) if str(path).endswith(".json") else yaml.safe_load(text)  # YAML's 1e-05 is a string
    except OSError:
        raise InputError(f"{path}: no such file") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: neither YAML nor JSON ({one_line(error)[:200]})") from None
    section = values.get("model", values) if isinstance(values, dict) else values
    if not isinstance(section, dict):
        raise InputError(f"{path}: expected a mapping of the model's options, found {type(section).__name__}")
    return section
