"""The commands whose outputs are frozen in tests/golden; by hand, ``python -m tests.helpers.golden`` writes them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
GOLDEN = TESTS / "golden"
# FLAC alone: how lossy files are decoded depends on the version of the codec.
SPEECH = ("calls/google_two_channel", "ljspeech/LJ001-0002", "jfk/jfk")


def write_manifest(path: Path) -> None:
    import soundfile

    rows = []
    for name in SPEECH:
        file = TESTS / "data" / "speech" / f"{name}.flac"
        info = soundfile.info(file)
        facts = {"duration": info.duration, "channels": info.channels, "sample_rate": info.samplerate}
        rows.append({"id": file.stem, "audio_filepath": str(file), **facts})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def commands(work: Path) -> dict[str, list[str]]:
    """By name: scripts with their options. Each begins with what is tracked, so that one that fails fails alone."""
    manifest, data = str(work / "manifest.jsonl"), TESTS / "data"
    book, model = str(GOLDEN / "codebook.safetensors"), str(GOLDEN / "unit_lm.pt")
    made = {name: str(work / name) for name in ("codebook.safetensors", "units.jsonl", "penalized.jsonl", "split")}
    one = ["--duplicated", "--overwrite"]
    return {
        "codebook": ["data_prep/train_codebook.py", manifest, made["codebook.safetensors"], "--clusters", "20"],
        "units": ["data_prep/encode_units.py", manifest, made["units.jsonl"], "--codebook", book],
        "penalized": ["data_prep/encode_units.py", manifest, made["penalized.jsonl"], "--codebook", book,
                      "--duration-penalty", "300", "--deduplicate"],
        "split": ["data_prep/split_units.py", str(GOLDEN / "mono.jsonl"), made["split"], "--segment-seconds", "2"],
        "data-bin": ["data_prep/binarize.py", "--trainpref", str(data / "reference/raw/train"), "--validpref",
                     str(data / "reference/raw/valid"), "--destdir", str(work / "data-bin")],
        "turn-taking": ["scripts/evaluate_dialogue.py", str(data / "speech/ami.rttm"), "--out", str(work / "metrics")],
        "sound": ["scripts/synthesize.py", str(GOLDEN / "short.jsonl"), str(work / "sound"), "--codebook", book, *one],
        "scores": ["scripts/score_units.py", str(GOLDEN / "lines.jsonl"), str(work / "scores.txt"), "--checkpoint",
                   model],
        "samples": ["scripts/sample_units.py", str(GOLDEN / "lines.jsonl"), str(work / "samples.jsonl"), "--checkpoint",
                    model, "--prompt-units", "5", "--max-len-b", "40", "--sampling-topk", "1"],
    }  # fmt: skip


def main(checkout: Path) -> None:
    """Freeze what the commands of a checkout give; the model and the lines it scores are made with it, too."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> None:
        subprocess.run([sys.executable, *words], cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL)

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_manifest(work / "manifest.jsonl")
        for name, words in commands(work).items():
            run(*words)
            if name == "codebook":
                shutil.copy(work / "codebook.safetensors", GOLDEN)
            if name == "units":
                shutil.copy(work / "units.jsonl", GOLDEN)
                lines = (work / "units.jsonl").read_text().splitlines(keepends=True)
                (GOLDEN / "mono.jsonl").write_text("".join(lines[1:]))
                row = json.loads(lines[1])
                row["unitA"] = " ".join(row["unitA"].split()[:50])
                (GOLDEN / "short.jsonl").write_text(json.dumps(row) + "\n")
        for name in ("penalized.jsonl", "split", "metrics/metrics.json", "sound", "scores.txt", "samples.jsonl"):
            source, target = work / name, GOLDEN / Path(name).name
            shutil.rmtree(target, ignore_errors=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
