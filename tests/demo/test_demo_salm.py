"""The demo of SALM as a user runs it, with tiny models."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from speechdlm_ext.io.manifest import read_jsonl
from tests.helpers.salm_models import write_llm

SIZES = {"strings": 6, "asr-updates": 4, "updates": 4, "aligning-updates": 2, "batch-size": 3, "salm-batch-size": 3}
TINY = [word for name, size in SIZES.items() for word in (f"--{name}", str(size))] + ["--sentences", "0.5"]


@pytest.mark.long
def test_end_to_end_and_again(run_command: Any, checkout: Path, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="needs the extra [demo]: pip install '.[demo]'")
    out, llm = tmp_path / "the demo's", write_llm(tmp_path / "llm")
    command = [sys.executable, checkout / "scripts" / "demo_salm.py", "--output", out, "--llm", llm, *TINY]
    printed = run_command(command, cwd=checkout, timeout=600).stdout
    for name in ("make_digits", "convert_llm", "salm_task", "salm_eval", "transcribe"):
        assert re.search(rf"^\$ .*{name}", printed, re.MULTILINE), name
    page, rows = (out / "report.html").read_text(encoding="utf-8"), read_jsonl(out / "data" / "valid.jsonl")
    sentences = read_jsonl(out / "data" / "sentences.jsonl")
    assert page.count("<audio") == min(12, len(rows)) + min(12, len(sentences))
    assert rows[0]["text"] in page and sentences[0]["text"] in page and "synthetic voices, sentences" in page
    assert "WER of SALM" in page and "WER of CTC" in page and "bits per token" in page
    assert len(read_jsonl(out / "valid.answers.jsonl")) == len(read_jsonl(out / "valid.ctc.jsonl")) == len(rows)
    again = run_command(command, cwd=checkout, timeout=600).stdout
    assert again.count("done before") == 9
