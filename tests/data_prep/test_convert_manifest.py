"""CSV manifests of AMELA become manifests, those that detect_speech.py writes too."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from speechdlm_ext.io.manifest import read_jsonl
from speechdlm_ext.io.recordings import read_manifest
from tests.helpers.sphere import conversation


def test_amelas_csv(tmp_path: Path, here) -> None:
    (tmp_path / "m.csv").write_text(
        '\ufefffile_id,audio_filepath,duration,splits,text,error\n007,/a/x.wav,3.5,"[12, 30]",,\n'
        '8_b,/a/y.wav,2,[],12,\nbad,/a/z.wav,,,,cannot be read\n',
        encoding="utf-8",
    )  # fmt: skip
    status, said, error = here("data_prep/convert_manifest.py", tmp_path / "m.csv", tmp_path / "m.jsonl")
    assert status == 0 and "2 rows" in said, error
    assert read_jsonl(tmp_path / "m.jsonl") == [
        {"id": "007", "audio_filepath": "/a/x.wav", "duration": 3.5, "splits": [12, 30]},
        {"id": "8_b", "audio_filepath": "/a/y.wav", "duration": 2, "splits": [], "text": "12"},
    ]
    assert [row["id"] for row in read_manifest(tmp_path / "m.jsonl")] == ["007", "8_b"]
    (tmp_path / "m.csv").write_text("path,duration\n/a/x.wav,3.5\n")
    status, _, error = here("data_prep/convert_manifest.py", tmp_path / "m.csv", tmp_path / "n.jsonl")
    assert status == 2 and "no column audio_filepath" in error and not (tmp_path / "n.jsonl").exists()


@pytest.mark.commands
def test_the_table_of_detect_speech(tmp_path: Path, here) -> None:
    (tmp_path / "calls").mkdir()
    for number in range(2):
        soundfile.write(tmp_path / f"calls/{number}.wav", conversation(2 + number), 8000)
    (tmp_path / "calls/bad.wav").write_text("no sound")
    made = tmp_path / "made"
    status, _, error = here(
        "data_prep/detect_speech.py", tmp_path / "calls", made, "--vad", "energy", "--num-workers", 1
    )
    assert status == 0, error
    assert here("data_prep/convert_manifest.py", f"{made}.csv", tmp_path / "m.jsonl")[0] == 0
    rows = read_jsonl(tmp_path / "m.jsonl")
    assert [(row["audio_filepath"], row["duration"]) for row in rows] == [
        (str(tmp_path / f"calls/{number}.wav"), 2.0 + number) for number in range(2)
    ]
