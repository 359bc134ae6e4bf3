"""The commands from a folder of recordings to units and back: run, killed and started again, and refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.commands

QUIET = {"OMP_NUM_THREADS": "1"}
BOOK = ["--codebook", "{work}/book.safetensors"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """Twelve two-channel pieces of a call at three rates in nested folders with awkward names, and three bad files."""
    root = tmp_path_factory.mktemp("my recordings é")
    wave, rate = soundfile.read(data / "speech" / "calls" / "auto_repairs_40.ogg")
    for number in range(12):
        place = root / ("Monday's" if number % 2 else "“Tuesday”") / str(number % 3)
        place.mkdir(parents=True, exist_ok=True)
        piece = wave[number * 5 * rate : (number * 5 + 5) * rate]
        soundfile.write(
            place / f"call {number // 6}.{('wav', 'flac', 'ogg')[number % 3]}", piece, (16000, 8000, 22050)[number % 3]
        )
    soundfile.write(root / "mono.wav", wave[:80000, 0], rate)
    (root / "broken.wav").write_bytes(b"RIFF....WAVE")
    soundfile.write(root / "short.wav", wave[:1000], rate)
    return root


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, folder: Path, run_command, run_loaded) -> Path:
    """What the five commands make of the folder."""
    out = tmp_path_factory.mktemp("work")
    command = ["python", "data_prep/make_manifest.py", folder, out / "manifest.jsonl"]
    manifest = run_command([*command, "--channels", "2", "--min-seconds", "2"], env=QUIET)
    assert "12 of 15 recordings" in manifest.stdout and manifest.stdout.count("skipped:") == 3
    assert "8000, 22050 Hz will be resampled" in manifest.stdout
    book = out / "book.safetensors"
    for script, *arguments in (
        ("data_prep/train_codebook.py", out / "manifest.jsonl", book, "--units", "40"),
        ("data_prep/encode_units.py", out / "manifest.jsonl", out / "units.jsonl", "--codebook", book),
        ("data_prep/split_units.py", out / "units.jsonl", out / "data", "--segment-seconds", "5"),
        ("scripts/synthesize.py", out / "data" / "valid.jsonl", out / "wav", "--codebook", book),
    ):
        run_loaded(["python", script, *arguments], env=QUIET)
    return out


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_from_a_folder_to_units_and_back(work: Path, folder: Path) -> None:
    manifest = rows_of(work / "manifest.jsonl")
    assert len({row["id"] for row in manifest}) == 12
    for row in manifest:
        info = soundfile.info(row["audio_filepath"])
        assert (row["channels"], row["sample_rate"]) == (2, info.samplerate)
        assert row["duration"] == pytest.approx(info.frames / info.samplerate, abs=1e-5)
    units = rows_of(work / "units.jsonl")
    assert [row["audio"] for row in units] == [row["id"] for row in manifest]
    for row, source in zip(units, manifest, strict=True):
        numbers = [int(unit) for name in ("unitA", "unitB") for unit in row[name].split()]
        assert set(numbers) <= set(range(40)) and len(set(numbers)) > 5
        info = soundfile.info(source["audio_filepath"])
        samples = -(-info.frames * 16000 // info.samplerate)
        assert len(row["unitA"].split()) == len(row["unitB"].split()) == samples // 320
    for row in rows_of(work / "data" / "valid.jsonl"):
        wave, rate = soundfile.read(work / "wav" / f"{row['audio']}.wav")
        assert rate == 16000 and wave.shape == (len(row["unitA"].split()) * 320, 2)
        assert 0.005 < np.sqrt((wave**2).mean()) < 0.2 and abs(wave).max() < 1


def test_commands_done_are_not_done_again(work: Path, folder: Path, run_loaded) -> None:
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file() and path.name[0] != "."}
    book = ["--codebook", work / "book.safetensors"]
    for script, source, result, said in (
        ("data_prep/encode_units.py", work / "manifest.jsonl", work / "units.jsonl", "complete already"),
        ("scripts/synthesize.py", work / "data" / "valid.jsonl", work / "wav", "exist already"),
    ):
        again = run_loaded(["python", script, source, result, *book], env=QUIET)
        assert said in again.stdout + again.stderr
    done = run_loaded(
        ["python", "data_prep/train_codebook.py", work / "manifest.jsonl", work / "book.safetensors", "--units", "40"],
        check=False,
    )
    assert done.returncode == 2 and "--overwrite" in done.stderr
    split = ["python", "data_prep/split_units.py", work / "units.jsonl", work / "data", "--segment-seconds"]
    done = run_loaded([*split, "3"], check=False)
    assert done.returncode == 2 and "--overwrite" in done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in before}
    contents = {path: path.read_bytes() for path in (work / "data").iterdir()}
    run_loaded([*split, "5"])
    assert contents == {path: path.read_bytes() for path in (work / "data").iterdir()}


# Runs a command that gets a signal when its n-th result goes into its journal.
SIGNALLED = """
import os, runpy, sys
from speechdlm_ext.io.resume_log import ResumeLog
signal, count = int(sys.argv[1]), int(sys.argv[2])
add = ResumeLog.add
def add_and_signal(journal, key, value):
    global count
    add(journal, key, value)
    count -= 1
    if not count:
        os.kill(os.getpid(), signal)
ResumeLog.add = add_and_signal
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_killed_and_started_again_gives_the_same_files(work: Path, tmp_path: Path, run_command, run_loaded) -> None:
    """kill -9 in the middle, for encoding between two recordings, for synthesis before a noted file is there."""
    book = ["--codebook", work / "book.safetensors"]
    command = ["data_prep/encode_units.py", work / "manifest.jsonl", tmp_path / "units.jsonl", *book]
    done = run_command(["python", "-c", SIGNALLED, "9", "7", *command], env=QUIET, check=False)
    assert done.returncode == -9 and not (tmp_path / "units.jsonl").exists()
    done = run_loaded(["python", *command], env=QUIET)
    assert "7 of 12 recordings are done already" in done.stdout + done.stderr
    assert (tmp_path / "units.jsonl").read_bytes() == (work / "units.jsonl").read_bytes()

    command = ["scripts/synthesize.py", work / "data" / "valid.jsonl", tmp_path / "wav", *book]
    done = run_command(["python", "-c", SIGNALLED, "9", "2", *command], env=QUIET, check=False)
    assert done.returncode == -9 and len(list((tmp_path / "wav").glob("*.wav"))) == 1
    run_loaded(["python", *command], env=QUIET)
    sounds = [{path.name: path.read_bytes() for path in (folder / "wav").glob("*.wav")} for folder in (tmp_path, work)]
    assert sounds[0] == sounds[1] and len(sounds[0]) >= 2


def _refused(done: subprocess.CompletedProcess, expected: str, status: int = 2) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == status, done.stdout + done.stderr
    assert len(lines) == 1 and expected in lines[0] and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data_prep/make_manifest.py", "{tmp}/none", "{tmp}/out/m.jsonl"], "no such folder"),
        (["data_prep/make_manifest.py", "{tmp}/empty", "{tmp}/out/m.jsonl"], "no audio files"),
        (["data_prep/make_manifest.py", "{tmp}/mono", "{tmp}/out/m.jsonl", "--channels", "2"],
         "1 channel, 2 are needed"),
        (["data_prep/make_manifest.py", "{tmp}/mono", "{tmp}/out/m.jsonl", "--channels", "0"], "--channels 0"),
        (["data_prep/train_codebook.py", "{tmp}/none.jsonl", "{tmp}/out/b.safetensors"], "no such file"),
        (["data_prep/train_codebook.py", "{work}/manifest.jsonl", "{tmp}/out/b", "--units", "0"], "at least 1"),
        (["data_prep/train_codebook.py", "{work}/manifest.jsonl", "{tmp}/out/b", "--units", "99999"], "fewer units"),
        (["data_prep/train_codebook.py", "{work}/manifest.jsonl", "{tmp}/out/b", "--encoder", "x"], "there is logmel"),
        (["data_prep/encode_units.py", "{work}/manifest.jsonl", "{tmp}/u", "--codebook", "{tmp}/none"], "no such file"),
        (["data_prep/encode_units.py", "{work}/manifest.jsonl", "{tmp}/out/u", "--codebook", "{work}/units.jsonl"],
         "is text"),
        (["data_prep/split_units.py", "{work}/book.safetensors", "{tmp}/out/data"], "book.safetensors"),
        (["data_prep/split_units.py", "{work}/units.jsonl", "{tmp}/out/data", "--valid", "2"], "--valid 2"),
        (["scripts/synthesize.py", "{tmp}/beyond.jsonl", "{tmp}/out/w", *BOOK], "unit 40"),
        (["scripts/synthesize.py", "{tmp}/other.jsonl", "{tmp}/out/w", *BOOK], "codebook"),
        (["scripts/synthesize.py", "{tmp}/slash.jsonl", "{tmp}/out/w", *BOOK], "name of a file"),
    ],
)  # fmt: skip
def test_bad_input_in_one_line(work: Path, tmp_path: Path, run_loaded, arguments: list[str], expected: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mono").mkdir()
    soundfile.write(tmp_path / "mono" / "a b.wav", np.ones(50000) * 0.1, 16000)
    (tmp_path / "beyond.jsonl").write_text('{"audio": "a", "unitA": "1 40", "unitB": "2 3"}\n')
    (tmp_path / "other.jsonl").write_text(
        '{"audio": "a", "unitA": "1 4", "unitB": "2 3", "codebook": "0123456789ab"}\n'
    )
    (tmp_path / "slash.jsonl").write_text('{"audio": "../a", "unitA": "1 4", "unitB": "2 3"}\n')
    filled = [argument.format(tmp=tmp_path, work=work) for argument in arguments]
    done = run_loaded(["python", *filled], env=QUIET, check=False)
    # What is said about single files is on standard output; the error is the one line on standard error.
    _refused(done, expected)
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != ".synthesized"]
    assert not left


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission(work: Path, tmp_path: Path, run_command) -> None:
    tmp_path.chmod(0o555)
    done = run_command(
        ["python", "data_prep/split_units.py", work / "units.jsonl", tmp_path / "data"], env=QUIET, check=False
    )
    tmp_path.chmod(0o755)
    _refused(done, "Permission denied")


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("data_prep/encode_units.py", ["{work}/manifest.jsonl", "{out}/units.jsonl", *BOOK]),
        ("data_prep/split_units.py", ["{work}/units.jsonl", "{out}/data"]),
        ("scripts/synthesize.py", ["{work}/units.jsonl", "{out}/wav", *BOOK]),
    ],
)  # fmt: skip
def test_disk_full(work: Path, tmp_path: Path, run_command, run_loaded, script: str, arguments: list[str]) -> None:
    """A limit on the size of files stands for the disk: one line, nothing half-written, and it goes on with room."""
    filled = [str(argument).format(work=work, out=tmp_path) for argument in arguments]
    limited = (
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = run_command(["python", "-c", limited, script, *filled], env=QUIET, check=False)
    _refused(done, f"File too large: {tmp_path}")
    whole = [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert not [path for path in whole if path.suffix not in (".partial",) and path.stat().st_size >= 6000]
    assert not list(tmp_path.rglob("*.tmp"))
    if script.endswith("encode_units.py"):
        run_loaded(["python", script, *filled], env=QUIET)
        assert (tmp_path / "units.jsonl").read_bytes() == (work / "units.jsonl").read_bytes()


def test_ctrl_c(work: Path, tmp_path: Path, run_command) -> None:
    """One line, no traceback, status 130."""
    command = ["data_prep/encode_units.py", work / "manifest.jsonl", tmp_path / "units.jsonl"]
    arguments = [str(signal.SIGINT.value), "2", *command, "--codebook", work / "book.safetensors"]
    done = run_command(["python", "-c", SIGNALLED, *arguments], env=QUIET, check=False)
    _refused(done, "interrupted", status=130)
    assert not (tmp_path / "units.jsonl").exists()
