"""The demo as a user runs it: end to end, killed and started again, and on invalid input."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from speechdlm_ext.demo.report import ngram_bits
from speechdlm_ext.demo.run import choose_prompts
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.manifest import read_jsonl
from tests.helpers import browser

ROOT = Path(__file__).parents[2]
TINY = ["--minutes", "0.7", "--updates", "8", "--num-units", "40", "--prompts", "1", "--samples", "2"]
STEPS = 10


def demo_command(out: Path, *options: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "demo.py"), "--output", str(out), *options]


def environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def run_demo(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = demo_command(out, *options)
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, env=environment())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    pytest.importorskip("espeakng_loader", reason="needs the extra [demo]: pip install '.[demo]'")
    out = tmp_path_factory.mktemp("the demo's") / "out"
    done = run_demo(out, *TINY)
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    return out, done.stdout


@pytest.mark.long
def test_end_to_end(undisturbed: tuple[Path, str]) -> None:
    out, printed = undisturbed
    commands = [line[2:] for line in printed.splitlines() if line.startswith("$ ")]
    assert len(commands) == STEPS
    names = ("make_dialogues", "train_codebook", "encode_units", "split_units", "fairseq-preprocess", "fairseq-train")
    for name in (*names, "sample_speech_dlm", "synthesize", "evaluate_dialogue"):
        assert any(name in command for command in commands), name
    assert all(str(out) in " ".join(shlex.split(command)) for command in commands)  # quoted: the folder has a space
    samples = read_jsonl(out / "samples.jsonl")
    assert len(samples) == 2 and samples[0]["seed"] != samples[1]["seed"]
    held_out = read_jsonl(out / "prompts.jsonl")[0]
    for sample in samples:
        assert sample["prompt_frames"] == 250 or len(held_out["unitA"].split()) < 250
        assert sample["unitA"].split()[:200] == held_out["unitA"].split()[:200]
        frames = len(sample["unitB"].split())
        info = soundfile.info(out / "samples" / f"{sample['audio']}.wav")
        assert info.channels == 2 and info.duration == pytest.approx(frames / 50, abs=0.05)


def test_prompts_are_spread_over_the_longest_segments() -> None:
    rows = [
        {"audio": str(n), "unitA": "1 " * n, "unitA.durations": "", "unitB": "2 " * n} for n in (750, 90, 740, 700, 745)
    ]
    assert [row["audio"] for row in choose_prompts(rows, 2)] == ["750", "700"]
    assert [row["audio"] for row in choose_prompts(rows, 9)] == ["750", "740", "700", "745"]
    with pytest.raises(InputError, match="give more audio"):
        choose_prompts(rows[1:2], 1)
    with pytest.raises(InputError, match="give more audio"):
        choose_prompts([], 1)


@pytest.mark.long
def test_pasted_command_works(undisturbed: tuple[Path, str]) -> None:
    """A printed line, given to a shell as it is."""
    out, printed = undisturbed
    (line,) = [line[2:] for line in printed.splitlines() if line.startswith("$ ") and "evaluate_dialogue" in line]
    line = line.replace("report.html", "again.html")
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=600)
    assert done.returncode == 0 and (out / "again.html").is_file(), done.stderr


@pytest.mark.long
def test_the_report_has_training_turn_taking_and_commands(undisturbed: tuple[Path, str]) -> None:
    out, _ = undisturbed
    page = (out / "report.html").read_text(encoding="utf-8")
    for title in ("Training", "Turn-taking", "Dialogues", "Commands", "Method"):
        assert f">{title}</h2>" in page, title
    assert page.count("<li><h3>") == STEPS and "bits per edge unit; a bigram" in page
    result = json.loads((out / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    assert result["generated"]["conversations"] == 2 and result["activity"]["method"] == "energy"
    assert result["skipped"] == []


def test_n_grams_of_edge_units_by_hand(tmp_path: Path) -> None:
    """Units that alternate are certain for a bigram, and cost a unigram a bit each."""
    rows = [{"audio": str(n), "unitA": "0 0 0 1 1 " * 60, "unitB": "0 1 1 1 " * 60} for n in range(20)]
    for name in ("train", "valid"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    unigram, bigram = ngram_bits(tmp_path)
    assert bigram == pytest.approx(0.1, abs=0.1)  # of 121 predictions, the end is a surprise
    assert unigram == pytest.approx(1.0, abs=0.1)  # a unigram does not know which unit came before


@pytest.mark.long
def test_report_in_chromium(undisturbed: tuple[Path, str]) -> None:
    out, _ = undisturbed
    with browser.open_browser() as driver:
        for width in (390, 1280):
            browser.open_page(driver, out / "report.html", width)
            assert browser.console_errors(driver) == [] and browser.overflow(driver) <= 0
        (length,) = driver.execute_script("return [...document.querySelectorAll('audio')].map((a) => a.duration);")
        # Prompt and continuation, as far as the recording goes on.
        minutes = json.loads((out / "evaluation" / "metrics.json").read_text(encoding="utf-8"))["generated"]["minutes"]
        assert length == pytest.approx(5 + 60 * minutes / 2, abs=0.02)
        assert len(driver.find_elements("css selector", ".steps li")) == STEPS
        assert all(len(e.get_attribute("d")) > 500 for e in driver.find_elements("css selector", "path.wave"))


@pytest.mark.long
def test_killed_anywhere_it_ends_the_same(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    whole, _ = undisturbed
    out = tmp_path / "killed"
    moments = [
        ("logs/1-corpus.log", 0.7),
        ("logs/3-units.log", 1.0),
        ("checkpoints/checkpoint_last.pt", 0.3),
        ("logs/7-sample.log", 1.5),
    ]
    for name, delay in moments:
        process = subprocess.Popen(
            demo_command(out, *TINY), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment()
        )
        deadline = time.monotonic() + 300
        while not (out / name).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(delay)
        assert process.poll() is None, f"over before it was killed at {name}"
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = run_demo(out, *TINY)
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    assert "done before" in done.stdout
    for name in ("units.jsonl", "samples.jsonl", "split/train.jsonl", "data-bin/train.unitB-None.unitB.bin"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    for path in sorted((whole / "samples").glob("*.wav")):
        assert (out / "samples" / path.name).read_bytes() == path.read_bytes()
    ours, theirs = (
        torch.load(folder / "checkpoints" / "checkpoint_last.pt", weights_only=False)["model"]
        for folder in (out, whole)
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.long
def test_again_is_quick_and_other_options_are_not_mistaken(undisturbed: tuple[Path, str]) -> None:
    out, _ = undisturbed
    before = (out / "units.jsonl").stat().st_mtime_ns
    again = run_demo(out, *TINY)
    assert again.returncode == 0 and again.stdout.count("done before") == STEPS
    assert (out / "units.jsonl").stat().st_mtime_ns == before
    other = run_demo(out, *TINY, "--num-units", "1000000")
    # The corpus stands; the codebook of other options is made anew, and these cannot be had.
    assert other.returncode == 2 and other.stdout.count("done before") == 1
    assert len(other.stderr.strip().splitlines()) == 1
    stamp = json.loads((out / "steps" / "2-codebook.json").read_text(encoding="utf-8"))
    assert stamp["done"] is False


def _folder(kind: str, where: Path) -> Path:
    folder = where / "recordings"
    if kind == "missing":
        return folder
    folder.mkdir()
    if kind == "mono":
        for name in ("a.wav", "b.wav"):
            soundfile.write(folder / name, torch.zeros(48000).uniform_(-0.1, 0.1).numpy(), 16000)
    if kind == "broken":
        (folder / "a.wav").write_bytes(b"RIFF nothing")
    return folder


@pytest.mark.parametrize(
    ("kind", "words"),
    (("missing", "no such folder"), ("empty", "empty"), ("mono", "channel"), ("broken", "a.wav")),
)
def test_recordings_that_are_invalid(kind: str, words: str, tmp_path: Path, here: Any) -> None:
    status, _, error = here("scripts/demo.py", "--output", tmp_path / "out", "--audio", _folder(kind, tmp_path))
    assert status == 2 and len(error.strip().splitlines()) == 1 and words in error, error


def test_options_and_places_that_are_invalid(tmp_path: Path, here: Any) -> None:
    taken = tmp_path / "file"
    taken.write_text("", encoding="utf-8")
    for out, options in ((tmp_path / "a", ["--updates", "0"]), (taken, []), (Path("/proc/none"), [])):
        status, _, error = here("scripts/demo.py", "--output", out, *options)
        assert status == 2 and len(error.strip().splitlines()) == 1, error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: a permission cannot be missing")
def test_no_permission(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    done = run_demo(locked / "out")
    assert done.returncode == 2 and "ermission" in done.stderr


def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    process = subprocess.Popen(
        demo_command(tmp_path / "out", *TINY),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # in the background it is ignored
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "out" / "logs" / "1-corpus.log").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130 and errors.strip().splitlines() == ["demo.py: interrupted"]
