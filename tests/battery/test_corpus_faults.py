"""The commands over a corpus on a full disk, and where recordings vanish: one line; nothing lost or half-written."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from speechdlm_ext.io.audio import audio_info
from speechdlm_ext.io.manifest import read_jsonl
from speechdlm_ext.io.resume_log import ResumeLog
from tests.helpers.commands import CHECKOUT, environment
from tests.helpers.ctc_checkpoints import small_recogniser
from tests.helpers.noise_corpus import write_noise_corpus
from tests.helpers.processes import run_loaded, start_loaded

pytestmark = pytest.mark.commands

RECORDINGS = 24
LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv = sys.argv[2:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
COMMANDS = ("detect_speech", "transcribe", "resynthesize")
SHARDED = (*COMMANDS, "encode_units")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_noise_corpus(tmp_path / "corpus", range(4000, 4000 + 800 * RECORDINGS, 800))


def words_of(command: str, corpus: Path, output: Path) -> list[str]:
    """The command, which writes below ``output``."""
    manifest = str(corpus / "manifest.jsonl")
    if command == "detect_speech":
        script = "data_prep/detect_speech.py"
        words = [manifest, str(output / "made"), "--vad", "energy", "--num-workers", "1"]
    elif command == "transcribe":
        script = "scripts/transcribe.py"
        words = [manifest, str(output / "made.jsonl"), "--asr", small_recogniser(corpus / "model"), "--device", "cpu"]
    elif command == "encode_units":
        script = "data_prep/encode_units.py"
        words = [manifest, str(output / "made.jsonl"), "--device", "cpu"]
        words += ["--codebook", str(corpus / "codebook.safetensors")]
    else:
        script = "scripts/resynthesize.py"
        words = [manifest, "talk", "--device", "cpu", "--output", str(output)]
        words += ["--codebook", str(corpus / "codebook.safetensors")]
    return [str(CHECKOUT / script), *words]


def results(output: Path) -> dict[str, bytes]:
    """All that is below a folder, but for what keeps account of the work, and the file that fills the disk."""
    files = [path for path in output.rglob("*") if path.is_file() and path.name != "ballast"]
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in files
        if not path.name.startswith(".resynthesized") and path.suffix not in (".partial", ".lock")
    }


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A small file system on which so many bytes are free; its file ``ballast`` takes the others."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no permission to mount a file system (the same is tested with a limit to the size of files)")

    def leave(free: int) -> Path:
        (place / "ballast").write_bytes(bytes((4 << 20) - free))
        return place

    yield leave
    subprocess.run(["umount", place], check=True)


def check(command: str, corpus: Path, output: Path, limited: list[str], make_room: Callable[[], object]) -> None:
    """What a run leaves that has no room for its results, and that the same command goes on then."""
    words = words_of(command, corpus, output)
    failed = run_loaded([*limited, *words], env=environment(None))
    assert failed.returncode not in (0, None) and len(failed.stderr.strip().splitlines()) == 1, failed.stderr
    assert "Traceback" not in failed.stderr and ("No space left" in failed.stderr or "too large" in failed.stderr)
    before = results(output)
    if command == "resynthesize":
        lengths = {name: audio_info(output / name).frames for name in before}
        assert lengths and all(frames == 4000 + 800 * int(Path(name).stem) for name, frames in lengths.items())
    else:
        assert not before  # nothing has the name of a result
    make_room()
    again = run_loaded(words, env=environment(None))
    assert again.returncode == 0, again.stderr
    said = {"detect_speech": "are done already", "transcribe": "have a text already", "resynthesize": "exist already"}
    assert said[command] in again.stdout + again.stderr
    once = corpus / "once"
    once.mkdir()
    assert run_loaded(words_of(command, corpus, once), env=environment(None)).returncode == 0
    assert results(output) == results(once) and len(results(once)) == (RECORDINGS if command == "resynthesize" else
                                                                       2 - (command == "transcribe"))  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_may_not_grow(command: str, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "limited.py").write_text(LIMITED)
    (tmp_path / "out").mkdir()
    limit = {"detect_speech": 6000, "transcribe": 5000, "resynthesize": 30000}[command]
    check(command, corpus, tmp_path / "out", [str(tmp_path / "limited.py"), str(limit)], lambda: None)


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk(command: str, corpus: Path, full_disk: Callable[[int], Path]) -> None:
    place = full_disk(300_000 if command == "resynthesize" else 12_288)
    check(command, corpus, place, [], (place / "ballast").unlink)


@pytest.mark.parametrize("command", COMMANDS)
def test_recordings_that_vanish(command: str, corpus: Path, tmp_path: Path) -> None:
    """They are named and counted, and the others are done."""
    (tmp_path / "out").mkdir()
    gone = [corpus / "talk" / f"{number:03d}.wav" for number in (0, 5, 23)]
    for path in gone:
        path.unlink()
    done = run_loaded(words_of(command, corpus, tmp_path / "out"), env=environment(None))
    assert done.returncode == 0 and all(f"{path}: no such file" in done.stdout + done.stderr for path in gone), done
    if command == "resynthesize":
        assert "21 wav files, 3 skipped" in done.stdout
        errors = read_jsonl(tmp_path / "out/talk/.resynthesized.errors")
        assert len(list((tmp_path / "out").rglob("*.wav"))) == RECORDINGS - 3
    else:
        assert {"detect_speech": "21 of 24", "transcribe": "21 of 24 recordings have a text, 3"}[command] in done.stdout
        errors = read_jsonl(tmp_path / "out/made.jsonl.errors")
        kept = [row for row in read_jsonl(tmp_path / "out/made.jsonl") if command != "transcribe" or "text" in row]
        assert [row["mine"] for row in kept] == [number for number in range(RECORDINGS) if number not in (0, 5, 23)]
    assert [os.path.basename(row["audio_filepath"]) for row in errors] == ["000.wav", "005.wav", "023.wav"]


def log_of(command: str, output: Path, shard: str) -> Path:
    """What keeps account of a shard."""
    if command == "resynthesize":
        return output / f"talk/.resynthesized.shard-{shard}"
    return output / f"made.jsonl.shard-{shard}.partial"


@pytest.mark.parametrize("command", SHARDED)
def test_recordings_that_vanish_in_mid_run(command: str, corpus: Path, tmp_path: Path) -> None:
    """Listed, and gone when their turn comes, while others are worked on: named, and the others are done."""
    output = tmp_path / "out"
    output.mkdir()
    for number in range(RECORDINGS, 400):
        (corpus / f"talk/{number:03d}.wav").write_bytes((corpus / "talk/001.wav").read_bytes())
    with open(corpus / "manifest.jsonl", "a") as file:
        file.writelines(
            f'{{"audio_filepath": "{corpus}/talk/{number:03d}.wav"}}\n' for number in range(RECORDINGS, 400)
        )
    log = log_of(command, output, "0-of-2")
    told = tmp_path / "told"
    told.mkdir()
    words = [*words_of(command, corpus, output), "--shard", "0/2"]
    process = start_loaded(words, str(told), env=environment(None))
    end = time.monotonic() + 300
    while not (log.exists() and log.stat().st_size > 500) and process.exitcode is None and time.monotonic() < end:
        process.join(0.005)
    gone = [corpus / f"talk/{number:03d}.wav" for number in (0, 22, 396, 398)]  # whichever are begun last
    for path in gone:
        path.unlink()
    process.join(300)
    said = (told / "out").read_text() + (told / "err").read_text()
    assert process.exitcode == 0 and "Traceback" not in said, said
    errors = list(output.rglob("*.errors"))
    named = {row["audio_filepath"] for path in errors for row in read_jsonl(path)} if errors else set()
    if command == "detect_speech":  # a shard keeps them in one file
        named = {row["audio_filepath"] for row in read_jsonl(output / "made.jsonl.shard-0-of-2") if "error" in row}
    assert named and named <= set(map(str, gone)), named


@pytest.mark.parametrize("command", SHARDED)
def test_a_manifest_that_changes_between_tasks(command: str, corpus: Path, tmp_path: Path) -> None:
    """The shards would be of different lists, and some recordings of none: refused, and named."""
    (tmp_path / "out").mkdir()
    words = words_of(command, corpus, tmp_path / "out")
    lines = (corpus / "manifest.jsonl").read_text().splitlines(keepends=True)

    def task(shard: str, kept: list[str]) -> tuple[int | None, list[str]]:
        (corpus / "manifest.jsonl").write_text("".join(kept))
        done = run_loaded([*words, "--shard", shard], env=environment(None))
        return done.returncode, [line for line in done.stderr.splitlines() if "error: " in line]

    assert task("0/2", lines) == (0, [])
    status, said = task("1/2", lines[1:])
    assert status == 2 and len(said) == 1 and "manifest.jsonl lists other recordings than when the first" in said[0]
    assert task("1/2", lines) == (0, [])
    if command == "resynthesize":  # its shards are not joined: when all are done, the manifest may change
        assert task("0/2", lines[1:]) == (0, [])


@pytest.mark.parametrize("command", SHARDED)
def test_two_tasks_with_the_same_shard(command: str, corpus: Path, tmp_path: Path) -> None:
    log = log_of(command, tmp_path / "out", "1-of-2")
    log.parent.mkdir(parents=True)
    words = [*words_of(command, corpus, tmp_path / "out"), "--shard"]
    with ResumeLog(log, {}):
        second = run_loaded([*words, "1/2"], env=environment(None))
        assert second.returncode == 2 and f"{log}: another run is at work on it" in second.stderr
        assert len([line for line in second.stderr.splitlines() if "error" in line]) == 1
        if command != "resynthesize":  # which lets nobody with other settings into the folder
            assert run_loaded([*words, "0/2"], env=environment(None)).returncode == 0  # the other shard is free
