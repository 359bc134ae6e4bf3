"""DP-SLM's chain by one command: it ends with a table of all roads, and does nothing twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile

pytestmark = pytest.mark.long


def test_the_demo_trains_resynthesizes_and_recognises(
    tmp_path: Path, data: Path, checkout: Path, run_command: Any
) -> None:
    pytest.importorskip("pocketsphinx")
    said = {"LJ001-0002": "in being comparatively modern."}
    rows = []
    for place in ("ljspeech", "librispeech_test_other"):  # the split holds out at least 2 s
        for path in sorted((data / "speech" / place).iterdir()):
            if path.suffix in (".flac", ".ogg"):
                row = {"id": path.stem, "audio_filepath": str(path), "duration": soundfile.info(path).duration}
                rows.append({**row, "text": said.get(path.stem, "")})
    for name, chosen in (("speaker", rows), ("test", [row for row in rows if row["text"]])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    command = [
        "python",
        checkout / "scripts" / "demo_unit_to_codec.py",
        tmp_path / "speaker.jsonl",
        tmp_path / "test.jsonl",
    ]
    command += [
        "--output",
        tmp_path / "out",
        "--codes",
        "20",
        "--pairs",
        "k10-l0",
        "--updates",
        "3",
        "--hifigan-updates",
        "2",
    ]
    done = run_command(command)
    for road in ("recordings | |", "acoustic | 10 | 0", "codec | 20 | 0", "hifigan | 10 | 0", "inversion | 10 | 0"):
        assert f"| {road}" in done.stdout, done.stdout
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.wav")}
    assert len(made) == 4
    again = run_command(command)
    assert again.stdout.count("done before") > 10
    assert all(path.stat().st_mtime_ns == time for path, time in made.items())
