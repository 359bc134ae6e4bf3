"""fairseq-interactive reads on after a line that is not UTF-8; the task explains it (``PromptedGenerationTask``)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from speechdlm_ext.compat.repair import Repair, replace


def _read_any_bytes(module: Any) -> None:
    @replace(module, "buffered_read")
    def buffered_read(input: str, buffer_size: int) -> Iterator[list[str]]:
        lines: list[str] = []
        # Bytes; a program may have put a stream of text in the place of stdin.
        with nullcontext(getattr(sys.stdin, "buffer", sys.stdin)) if input == "-" else open(input, "rb") as file:
            for raw in file:
                text = raw if isinstance(raw, str) else raw.decode("utf-8", "surrogateescape")
                lines.append(text.removeprefix("\ufeff").strip())
                if len(lines) >= buffer_size:
                    yield lines
                    lines = []
        if lines:
            yield lines


REPAIRS = [
    Repair(
        name="interactive-bytes",
        package="fairseq",
        fault="UnicodeDecodeError, which ends fairseq-interactive, at a line that is not UTF-8",
        changes={"fairseq_cli.interactive": _read_any_bytes},
    ),
]
