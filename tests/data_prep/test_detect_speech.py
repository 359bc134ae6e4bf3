"""detect_speech.py: a folder and a manifest, shards and kills give the bytes of one run; bad recordings are named."""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechdlm_ext.evaluation.corpus import read_corpus
from speechdlm_ext.io.manifest import read_jsonl
from speechdlm_ext.vad.statistics import COLUMNS
from tests.helpers.sphere import conversation, write_fisher

pytestmark = pytest.mark.commands


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "my calls é"
    root.mkdir()
    for number in range(4):
        soundfile.write(root / f"{number}.wav", conversation(4 + number, seed=number), 8000)
    write_fisher(root / "4.sph", conversation(6))
    soundfile.write(root / "5 mono.flac", conversation(3)[:, 0], 8000)
    (root / "6.mp3").write_text("no sound")
    return root


def files_of(output: Path) -> list[bytes]:
    assert not list(output.parent.glob(f"{output.name}*.partial"))
    return [Path(f"{output}{ending}").read_bytes() for ending in (".csv", ".jsonl", ".jsonl.errors")]


def test_a_folder(folder: Path, tmp_path: Path, here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    detect = ["data_prep/detect_speech.py", folder, "--vad", "energy", "--num-workers", "1"]
    status, printed, error = here(*detect)
    assert status == 0 and "6 of 7 recordings" in printed, error
    (table,) = (tmp_path / "metadata").glob("my calls é_??-??-??.csv")
    rows = list(csv.DictReader(table.open()))
    assert tuple(rows[0]) == (*COLUMNS, "channel") and len(rows) == 4 * 2 + 2 + 1 + 1
    for row in rows[:-1]:  # each speaks half of the time, in stretches of 1.5 s
        assert 0.3 < float(row["spch-ratio"]) < 0.7 and 1.0 < float(row["max-spoken"]) < 2.0, row
    assert "6.mp3 is not audio" in rows[-1]["error"]
    manifest = table.with_suffix(".jsonl")
    made = read_jsonl(manifest)
    assert [row["duration"] for row in made] == [4.0, 5.0, 6.0, 7.0, 6.0, 3.0]
    assert read_jsonl(f"{manifest}.errors")[0]["audio_filepath"].endswith("6.mp3")
    assert len(read_corpus(manifest).dialogues) == 6  # it is a manifest
    assert "nothing to do" in here(*detect)[1]
    # A manifest without ids and with relative paths, in another order, keeps its own fields and its order.
    lines = [f'{{"audio_filepath": "my calls é/{name}", "note": {n}}}\r\n' for n, name in enumerate(("3.wav", "1.wav"))]
    (tmp_path / "m.json").write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    status, printed, error = here("data_prep/detect_speech.py", "m.json", "out.csv", *detect[2:])
    assert status == 0 and "2 relative paths are taken from" in error
    assert [(row["note"], row["speech"], row["audio_filepath"]) for row in read_jsonl("out.jsonl")] == [
        (n, made[place]["speech"], str(folder / f"{place}.wav")) for n, place in enumerate((3, 1))
    ]
    for words, said in (
        (["m.json", "out2", "--vad", "energy", "--hop", "160"], "--hop is not an option of --vad energy"),
        (["m.json", "out2", "--vad", "units"], "--vad units: it does not read audio"),
        ([folder, "out", "--vad", "energy"], "out.jsonl is there already, of other recordings"),
    ):
        status, _, error = here("data_prep/detect_speech.py", *words)
        assert status == 2 and said in error and len(error.splitlines()) == 1


def test_shards_are_one_run(folder: Path, tmp_path: Path, here) -> None:
    common = ["--vad", "energy", "--num-workers", "1"]
    assert here("data_prep/detect_speech.py", folder, tmp_path / "one", *common)[0] == 0
    for index in (2, 0, 1):
        assert here("data_prep/detect_speech.py", folder, tmp_path / "many", *common, "--shard", f"{index}/3")[0] == 0
    assert here("data_prep/merge_manifest.py", tmp_path / "many.jsonl")[0] == 0
    assert files_of(tmp_path / "many") == files_of(tmp_path / "one")
    assert here("data_prep/detect_speech.py", folder, tmp_path / "x", *common, "--shard", "0/2")[0] == 0
    soundfile.write(folder / "0a.wav", conversation(4), 8000)
    status, _, error = here("data_prep/detect_speech.py", folder, tmp_path / "x", *common, "--shard", "1/2")
    assert status == 2 and "lists other recordings" in error


@pytest.mark.long
@pytest.mark.parametrize("command", ["detect_speech", "make_manifest"])
def test_killed_at_random_moments(tmp_path: Path, checkout: Path, command: str) -> None:
    """Nothing is lost but what is in hand, and nothing is there twice: the bytes of an undisturbed run."""
    folder = tmp_path / "calls"
    folder.mkdir()
    for number in range(400):
        soundfile.write(folder / f"{number}.wav", conversation(2, seed=number % 7), 8000)
    (folder / "bad.wav").write_text("no sound")

    def words(name: str) -> list[str]:
        script = str(checkout / "data_prep" / f"{command}.py")
        more = ["--vad", "energy"] if command == "detect_speech" else []
        suffix = "" if command == "detect_speech" else ".jsonl"
        return [sys.executable, script, str(folder), str(tmp_path / f"{name}{suffix}"), "--num-workers", "2", *more]

    def run(name: str, seconds: float) -> int | None:
        process = subprocess.Popen(words(name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return None

    begin = time.monotonic()
    assert run("one", 600) == 0
    whole = time.monotonic() - begin
    chance, kept = random.Random(1), [0]
    partial = tmp_path / "many.jsonl.partial"
    for _ in range(4):
        if run("many", whole * chance.uniform(0.5, 1.1)) == 0:
            break
        if partial.exists():  # not before the first result, and not after the last
            kept.append(partial.read_bytes().count(b"\n"))
    assert kept == sorted(kept)
    assert run("many", 600) == 0
    for ending in (".jsonl", ".jsonl.errors", *([".csv"] if command == "detect_speech" else [])):
        assert (tmp_path / f"many{ending}").read_bytes() == (tmp_path / f"one{ending}").read_bytes()
    names = [row["id"] for row in read_jsonl(tmp_path / "many.jsonl")]
    assert len(names) == len(set(names)) == 400 and np.all([name.isdecimal() for name in names])
