"""Dictionaries as other systems write them, and a denoising task beside a model that has the same option."""

from __future__ import annotations

import io
from typing import Any

from speechdlm_ext.compat.errors import InputError
from speechdlm_ext.compat.repair import Repair, replace


def _read_any_text(module: Any) -> None:
    original = module.Dictionary.add_from_file

    @replace(module.Dictionary, "add_from_file")
    def add_from_file(self: Any, f: Any) -> None:
        if not isinstance(f, str):
            text = f.read().removeprefix("\ufeff").rstrip()
            return original(self, io.StringIO(text + "\n" if text else ""))
        try:
            original(self, f)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{f}: {error}") from error


REPAIRS = [
    Repair(
        name="dictionary-text",
        package="fairseq",
        fault="ValueError: Incorrect dictionary format, for a dict.txt that ends in an empty line or begins with a BOM",
        changes={"fairseq.data.dictionary": _read_any_text},
    ),
]
