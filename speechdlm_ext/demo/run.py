"""The demo: commands that users run, one after the other, each skipped if its results exist; then the report."""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.locking import open_locked
from speechdlm_ext.io.manifest import atomic_write, read_jsonl, write_jsonl
from speechdlm_ext.units.files import read_unit_file, row_channels

ROOT = Path(__file__).resolve().parents[2]
# The number of threads is part of the result (sums of floats depend on their order), so it is the same everywhere.
# Idle threads sleep: on a busy machine, spinning ones would slow down the training several times.
ENVIRONMENT = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
SEGMENT_SECONDS, PROMPT_SECONDS, FRAME_RATE = 15, 5, 50  # of what the model sees at once; of prompts; Hz
VALID = 0.17  # fraction of the corpus that is held out
_PR_SET_PDEATHSIG = 1
_PROGRESS_EVERY = 5.0  # seconds between two lines of progress where the output is no terminal


@dataclass(frozen=True)
class Step:
    """A command.

    Attributes:
        name: of its stamp and log.
        title: what it does.
        command: program and arguments; paths as the user gave them, so that it can be pasted into a shell.
        makes: files and folders that nothing else writes.
        resumes: it continues by itself where it was stopped; else what it left is removed first.
        depends: what the result depends on beside the command and the steps before it.
        environment: variables that the command gets.
    """

    name: str
    title: str
    command: Sequence[str]
    makes: Sequence[Path]
    resumes: bool = False
    depends: Any = None
    environment: Mapping[str, str] = field(default_factory=lambda: ENVIRONMENT)

    def shell_line(self) -> str:
        """The command as it can be pasted into a shell."""
        return " ".join(
            [*(f"{key}={value}" for key, value in self.environment.items()), *map(shlex.quote, self.command)]
        )


def steps(options: argparse.Namespace) -> Iterator[Step]:
    """The commands in order; one is yielded when those before it have run, as it may depend on their results."""
    out, seed = options.output, str(options.seed)
    corpus, manifest, codebook = out / "corpus", out / "corpus" / "manifest.jsonl", out / "codebook.safetensors"
    units, split, data, checkpoints = out / "units.jsonl", out / "split", out / "data-bin", out / "checkpoints"
    prompts, samples, audio = out / "prompts.jsonl", out / "samples.jsonl", out / "samples"
    if options.audio is None:
        command = [*script("data_prep/make_dialogues.py"), str(corpus), "--minutes", f"{options.minutes:g}"]
        command += ["--voices", "2", "--seed", seed]
        yield Step("1-corpus", "Generate synthetic dialogues", command, [corpus], resumes=True, depends=versions())
    else:
        command = [*script("data_prep/make_manifest.py"), str(options.audio), str(manifest)]
        command += ["--channels", "2", "--min-seconds", "2"]
        depends = [versions(), list_recordings(options.audio)]
        yield Step("1-corpus", "List the recordings", command, [corpus], depends=depends)

    # Silence gets few units of its own: noise 30 dB below the speech makes no difference.
    command = [*script("data_prep/train_codebook.py"), str(manifest), str(codebook), "--encoder", "logmel"]
    command += ["--encoder-options", json.dumps({"floor_db": -30}), "--units", str(options.num_units), "--seed", seed]
    yield Step("2-codebook", f"Train a codebook of {options.num_units} units on log-mel frames", command, [codebook])

    command = [*script("data_prep/encode_units.py"), str(manifest), str(units), "--codebook", str(codebook)]
    if options.audio is not None and sum(row["duration"] for row in read_jsonl(manifest)) < 20 * 60:
        command += ["--speeds", "0.9", "1.1"]  # a few minutes of recorded speech are too little as they are
    yield Step("3-units", "Encode both channels as units", command, [units, partial(units)], resumes=True)

    command = [*script("data_prep/split_units.py"), str(units), str(split), "--valid", str(VALID)]
    command += ["--segment-seconds", str(SEGMENT_SECONDS), "--seed", seed]
    yield Step("4-split", "Hold out recordings, and cut all into segments", command, [split])

    for channel in ("unitA", "unitB"):
        yield binarize_step(f"5-binarize-{channel}", channel, split, data)

    title = f"Train a SpeechDLM for {options.updates} updates"
    yield Step("6-train", title, train_command(options, data, checkpoints), [checkpoints], resumes=True)

    found = choose_prompts(read_unit_file(split / "valid.jsonl"), options.prompts)
    write_jsonl(prompts, found)
    # Where there are fewer prompts than asked for, more samples of each: the figures are of as much generated speech.
    count = math.ceil(options.prompts * options.samples / len(found))
    command = [*script("scripts/sample_speech_dlm.py"), "--in-file", str(prompts), "--out-file", str(samples)]
    command += ["--ckpt", str(checkpoints / "checkpoint_best.pt"), "--data", str(data)]
    command += ["--prompt-frames", str(PROMPT_SECONDS * FRAME_RATE), "--max-len-b", str(SEGMENT_SECONDS * FRAME_RATE)]
    command += ["--sampling-topp", "0.9", "--beam", "1", "--samples", str(count), "--seed", seed, "--device", "cpu"]
    yield Step("7-sample", "Continue held-out prompts", command, [samples, partial(samples)], resumes=True)

    command = [*script("scripts/synthesize.py"), str(samples), str(audio), "--codebook", str(codebook)]
    yield Step("8-synthesize", "Synthesize audio", [*command, "--seed", seed, "--duplicated"], [audio])

    command = [*script("scripts/evaluate_dialogue.py"), str(audio), "--reference", str(manifest), "--vad", "energy"]
    command += ["--prompts", str(samples), "--units", str(samples), "--reference-units", str(units)]
    command += ["--output", str(out / "evaluation"), "--html", str(out / "report.html")]
    yield Step("9-evaluate", "Evaluate turn-taking", command, [out / "evaluation"], resumes=True)


def binarize_step(name: str, channel: str, split: Path, data: Path) -> Step:
    """``fairseq-preprocess`` of one channel of what ``split_units.py`` wrote."""
    command = [fairseq("fairseq-preprocess"), "--source-lang", channel, "--only-source"]
    command += ["--srcdict", str(split / "dict.txt"), "--destdir", str(data)]
    command += ["--trainpref", str(split / "train"), "--validpref", str(split / "valid")]
    kinds = [f"{name}.{channel}-None.{channel}.{kind}" for name in ("train", "valid") for kind in ("bin", "idx")]
    return Step(name, f"Binarize {channel}", command, [data / one for one in (*kinds, f"dict.{channel}.txt")])


def train_command(options: argparse.Namespace, data: Path, checkpoints: Path) -> list[str]:
    """``fairseq-train``: a small SpeechDLM, the published recipe for minutes of audio and of computing.

    What differs from the published recipe keeps a model that sees minutes instead of 2000 hours from overfitting:
    strong weight decay, and no positional embeddings, by which it would memorize where in a segment a unit was. Output
    weights that are not shared learn unit bigrams within fewer updates. Durations, whose loss is noisy, weigh less.
    """
    updates = options.updates
    interval = str(max(5, min(50, updates // 4)))  # updates between two checkpoints: what a kill can cost
    command = [fairseq("fairseq-train"), str(data), "--user-dir", shown(ROOT / "speechdlm_ext")]
    command += ["--task", "speech_dlm_task", "--channels", "unitA,unitB"]
    command += ["--next-unit-prediction", "False", "--edge-unit-prediction", "True"]
    command += ["--duration-prediction", "True", "--delayed-duration-target", "True"]
    command += ["--tokens-per-sample", str(SEGMENT_SECONDS * FRAME_RATE + 1), "--sample-break-mode", "eos"]
    command += ["--arch", "speech_dlm", "--decoder-layers", "4", "--decoder-cross-layers", "2"]
    command += ["--decoder-embed-dim", "128", "--decoder-ffn-embed-dim", "512", "--decoder-attention-heads", "2"]
    command += ["--no-token-positional-embeddings", "--dropout", "0.3", "--attention-dropout", "0"]
    command += ["--criterion", "speech_dlm_criterion", "--duration-loss-weight", "0.2"]
    command += ["--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--clip-norm", "1.0", "--weight-decay", "2.0"]
    command += ["--lr", "0.003", "--lr-scheduler", "polynomial_decay", "--total-num-update", str(updates)]
    command += ["--warmup-updates", str(min(60, max(1, updates // 5)))]
    command += ["--max-tokens", "1600", "--max-update", str(updates)]
    command += ["--save-dir", str(checkpoints), "--tensorboard-logdir", str(checkpoints / "tensorboard")]
    command += ["--save-interval-updates", interval, "--keep-interval-updates", "1"]
    command += ["--validate-interval-updates", interval, "--best-checkpoint-metric", "edge_token_loss"]
    command += ["--no-epoch-checkpoints", "--save-interval", "1000000", "--validate-interval", "1000000"]
    command += ["--log-format", "simple", "--log-interval", str(max(1, min(10, updates // 8)))]
    return [*command, "--num-workers", "0", "--cpu", "--seed", str(options.seed)]


def choose_prompts(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Up to ``count`` segments, spread over those that are as long as the model's continuations, or the longest.

    Raises:
        InputError: no segment is twice as long as a second.
    """
    lengths = [len(row[row_channels(row)[0]].split()) for row in rows]
    longest = min(max(lengths, default=0), SEGMENT_SECONDS * FRAME_RATE)
    if longest < 2 * FRAME_RATE:
        raise InputError("no held-out segment is long enough for a prompt: give more audio")
    usable = [row for row, length in zip(rows, lengths, strict=True) if length >= 0.9 * longest]
    chosen = min(count, len(usable))
    return [usable[number * len(usable) // chosen] for number in range(chosen)]


def run_demo(options: argparse.Namespace) -> Path:
    """Run the demo, or what remains of it.

    Args:
        options: of ``scripts/demo.py``.

    Returns:
        The report.

    Raises:
        InputError: an option is invalid, or a command failed.
    """
    from speechdlm_ext.demo.report import write_report

    for name, least in (("updates", 1), ("num_units", 2), ("prompts", 1), ("samples", 1)):
        if getattr(options, name) < least:
            raise InputError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected {least} or more")
    if options.audio is not None and not list_recordings(options.audio):
        raise InputError(f"{options.audio} is empty; expected two-channel recordings (wav, flac, ogg, mp3)")
    start, out, page = time.monotonic(), options.output, options.output / "report.html"
    source = "your recordings" if options.audio else f"{options.minutes:g} minutes of synthetic dialogue"
    print(f"From {source} to a model that continues a dialogue: about 10 minutes on two cores by default.")
    print(f"Results in {out}/. It can be stopped at any time; started again, it resumes.", flush=True)
    run_steps(steps(options), out, lambda done: write_report(options, done, page))
    print(f"\n{time.monotonic() - start:.0f} s. Open {page.resolve().as_uri()} in a browser.", flush=True)
    return page


def run_steps(
    wanted: Iterator[Step], out: Path, report: Callable[[list[tuple[Step, float]]], None]
) -> list[tuple[Step, float]]:
    """Run steps in order, each unless its results exist, then make the report of them.

    Args:
        wanted: the steps.
        out: folder of the demo, which is locked meanwhile.
        report: writes the report, given the steps, each with its seconds.

    Returns:
        What the report was given.

    Raises:
        InputError: a command failed.
    """
    with exclusive(out) as lock:
        chain, done = "", []
        for number, step in enumerate(wanted, 1):
            command = [word.replace(str(out), "OUT") for word in step.command[1:]]
            content = [chain, Path(step.command[0]).name, command, dict(step.environment), step.depends]
            chain = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
            print(f"\n[{number}] {step.title}\n$ {step.shell_line()}", flush=True)
            done.append((step, run_step(step, chain, out, lock)))
        report(done)
    return done


def run_step(step: Step, fingerprint: str, out: Path, lock: int) -> float:
    """Run a step unless its stamp has this fingerprint and its results exist.

    Args:
        step: the command.
        fingerprint: of the command and of all before it.
        out: folder of the demo.
        lock: descriptor of the demo's lock, which the command inherits.

    Returns:
        Seconds that it took, in all runs.
    """
    path = out / "steps" / f"{step.name}.json"
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stamp = {}
    same = stamp.get("fingerprint") == fingerprint
    if same and stamp["done"] and all(made.exists() for made in step.makes if made.suffix != ".partial"):
        print(f"    done before ({stamp['seconds']:.0f} s)", flush=True)
        return float(stamp["seconds"])
    if not (same and step.resumes):
        for made in step.makes:
            shutil.rmtree(made) if made.is_dir() else made.unlink(missing_ok=True)
    spent = float(stamp["seconds"]) if same and step.resumes else 0.0
    start = time.monotonic()
    for finished in (False, True):
        if finished:
            execute(step, out / "logs" / f"{step.name}.log", lock)
        seconds = round(spent + time.monotonic() - start, 2)
        with atomic_write(path) as file:
            json.dump({"fingerprint": fingerprint, "done": finished, "seconds": seconds}, file)
    print(f"    {seconds:.0f} s", flush=True)
    return seconds


def execute(step: Step, log: Path, lock: int) -> None:
    """Run a command: its output goes to ``log``, its last line to the screen, written over where that is a terminal.

    Raises:
        InputError: it failed; the message is its last line, or says where the log is.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **step.environment, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}
    last, rest, shown_at, terminal = "", b"", 0.0, sys.stdout.isatty()
    with open(log, "ab") as file:
        process = subprocess.Popen(
            list(step.command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(lock,),
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        assert process.stdout is not None
        try:
            while chunk := os.read(process.stdout.fileno(), 65536):
                file.write(chunk)
                file.flush()
                *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
                last = next((text for raw in reversed(lines) if (text := raw.decode(errors="replace").strip())), last)
                if last and time.monotonic() - shown_at >= (0.1 if terminal else _PROGRESS_EVERY):
                    shown_at = time.monotonic()
                    text = f"    {last.rpartition(' | ')[2]}"
                    width = shutil.get_terminal_size().columns - 1
                    print(f"\r\033[K{text[:width]}" if terminal else f"{text[:200]}\n", end="", flush=True)
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            if terminal:
                print("\r\033[K", end="", flush=True)
    last = rest.decode(errors="replace").strip() or last
    if status == 2 and ": error: " in last:
        raise InputError(last.split(": error: ", 1)[1])
    if status:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        raise InputError(f"{step.title}: {Path(step.command[0]).name} {how} ({last[:200]}): see {log}")


def _die_with_parent() -> None:
    """Runs in the child: when the demo is killed, its command must not go on and disturb the next run."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def exclusive(out: Path) -> Iterator[int]:
    """Hold the lock of the demo's folder as long as the block, or a command started in it, runs.

    Yields:
        Its file descriptor, which the commands inherit.

    Raises:
        InputError: another run holds it, and does not release it within ten seconds.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open_locked(out / ".lock", wait=10, name=out) as file:
        yield file.fileno()


def list_recordings(folder: Path) -> list[Any]:
    """Name, size and time of every file in ``folder`` and below: another list means other recordings.

    Raises:
        InputError: no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of recordings" + (" (a file)" if folder.exists() else ""))
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"{folder}: no permission to read this folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [[str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


def versions() -> dict[str, str]:
    """What the results are made with."""
    found = {"Python": sys.version.split()[0]}
    for name in ("speechdlm_ext", "fairseq", "torch", "torchaudio", "numpy", "scikit-learn", "espeakng-loader"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def partial(path: Path) -> Path:
    """Where a command keeps what it has done so far of ``path``."""
    return path.with_name(path.name + ".partial")


def shown(path: Path) -> str:
    """A path relative to the current folder if it lies in it, so that it can be pasted."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def script(name: str) -> list[str]:
    """Interpreter and script of the checkout."""
    return [shown(Path(sys.executable)), shown(ROOT / name)]


def fairseq(command: str) -> str:
    """One of fairseq's commands, of this interpreter, whatever PATH says.

    Raises:
        InputError: it is not installed there.
    """
    path = Path(sys.executable).parent / command
    if not path.is_file():
        raise InputError(f"{path} does not exist; install the package into this environment: pip install .")
    return shown(path)
