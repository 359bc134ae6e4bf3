"""The demo of speech recognition as a user runs it, with a tiny model."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from speechdlm_ext.io.manifest import read_jsonl

TINY = ["--strings", "6", "--updates", "4", "--batch-size", "3", "--width", "8", "--baseline"]


@pytest.mark.long
def test_end_to_end_and_again(run_command: Any, checkout: Path, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="needs the extra [demo]: pip install '.[demo]'")
    out = tmp_path / "the demo's"
    command = [sys.executable, checkout / "scripts" / "demo_asr.py", "--output", out, *TINY]
    printed = run_command(command, cwd=checkout, timeout=600).stdout
    for name in ("make_digits", "train_tokenizer", "fairseq-train", "transcribe"):
        assert re.search(rf"^\$ .*{name}", printed, re.MULTILINE), name
    page, rows = (out / "report.html").read_text(encoding="utf-8"), read_jsonl(out / "corpus" / "valid.json")
    assert page.count("<audio") == min(12, len(rows)) and rows[0]["text"] in page
    assert "word error rate" in page and "Errors by word" in page and "wav2vec 2.0 of equal size" in page
    assert len(read_jsonl(out / "transcripts.jsonl")) == len(rows)
    again = run_command(command, cwd=checkout, timeout=600).stdout
    assert again.count("done before") == 6
