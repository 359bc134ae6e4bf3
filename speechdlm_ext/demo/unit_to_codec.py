"""DP-SLM's chain trained on minutes of speech: units, an acoustic model, a codec, and what a recogniser makes of it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from speechdlm_ext.demo import speech_recognition
from speechdlm_ext.demo.run import (
    ENVIRONMENT,
    ROOT,
    Step,
    fairseq,
    partial,
    run_steps,
    script,
    shown,
    versions,
)
from speechdlm_ext.evaluation.wer_bitrate import Pair

ONE_THREAD = {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}  # the number of threads is part of the result
VOICE = "en-us"  # of espeak-ng, where no recordings are given
RATE = "50"  # of the codec, which is a fine codebook of log-mel spectra, Hz


def steps(options: argparse.Namespace) -> Iterator[Step]:
    """The commands in order."""
    out, seed = options.output, str(options.seed)
    codec, rows = out / "codec.safetensors", out / "codec.jsonl"
    if options.digits is not None:
        command = [*script("data_prep/make_digits.py"), str(options.digits), "--voice", VOICE, "--seed", seed]
        command += ["--strings", str(options.strings), "--valid-strings", str(options.test_strings)]
        title = "Generate strings of spoken digits of one voice"
        yield Step("0-digits", title, command, [options.digits], depends=versions())
    train = [*script("data_prep/train_codebook.py"), str(options.speaker)]
    command = [*train, str(codec), "--units", str(options.codes), "--seed", seed]
    yield Step("1-codec", f"Train a codec of {options.codes} log-mel spectra", command, [codec], depends=versions())

    command = [*script("data_prep/encode_codec.py"), str(options.train), str(rows), "--codec", "units"]
    yield Step(
        "2-tokens", "Encode as codec tokens", [*command, "--checkpoint", str(codec)], [rows, partial(rows)], True
    )

    for k in sorted({pair.k for pair in options.pairs}):
        book = out / f"k{k}.safetensors"
        command = [*train, str(book), "--units", str(k), "--seed", seed]
        yield Step(f"3-codebook-k{k}", f"Train a codebook of {k} units", command, [book])

    for pair in options.pairs:
        yield from acoustic_steps(options, pair, rows)

    pairs = [pair.name for pair in options.pairs]
    books = ["--codebook", str(out / "k{k}.safetensors")]
    acoustic = [
        "--pairs", *pairs, *books, "--vocoder", "wavtokenizer", "--seed", seed, "--codec-checkpoint", f"units:{codec}",
        "--acoustic", str(out / "k{k}-l{l}" / "checkpoints" / "checkpoint_best.pt"),
    ]  # fmt: skip
    roads = {
        "codec": ["--pairs", f"k{options.codes}-l0", "--codebook", str(codec)],
        "inversion": ["--pairs", *pairs, *books],
        "acoustic": [*acoustic, "--temperature", "0"],
        "acoustic-durations": [*acoustic, "--predict-durations"],
    }
    if options.hifigan_updates:
        yield from hifigan_steps(options)
        roads["hifigan"] = ["--pairs", *pairs, *books, "--vocoder", "hifigan"]
        roads["hifigan"] += ["--vocoder-checkpoint", str(out / "hifigan-k{k}" / "vocoder")]
    if options.asr is None:  # learns from other strings, of other voices
        asr = argparse.Namespace(
            output=out / "asr", strings=options.asr_strings, updates=options.asr_updates, seed=options.seed + 1,
            espeak_only=True,
            recordings=None, held_out=[], batch_size=16, width=128,
        )  # fmt: skip
        yield from islice(speech_recognition.steps(asr), 3)  # corpus, vocabulary, training
        options.asr = f"ctc:{asr.output / 'checkpoints' / 'checkpoint_best.pt'}"
    text = out / "recognised" / "original.jsonl"
    untold = out / "recognised" / "untold.jsonl"
    write_untold(options.test, untold)
    command = [*script("scripts/transcribe.py"), str(untold), str(text), "--asr", options.asr, "--device", "cpu"]
    yield Step("6-original", "Recognise the recordings", command, [text, partial(text)], resumes=True)
    for name, road in roads.items():
        folder = out / "recognised" / name
        command = [*script("scripts/plot_wer_bitrate.py"), str(options.test), str(folder), "--asr", options.asr, *road]
        command += ["--num-neighbors", "0", "--corpus", "--no-published", "--device", "cpu"]
        yield Step(f"6-{name}", f"Resynthesize and recognise: {name}", command, [folder], resumes=True)


def acoustic_steps(options: argparse.Namespace, pair: Pair, rows: Path) -> Iterator[Step]:
    """Units of one pair, and the acoustic model that makes codec tokens of them."""
    out = options.output / pair.name
    units, joined, split, checkpoints = out / "units.jsonl", out / "rows.jsonl", out / "split", out / "checkpoints"
    book = str(options.output / f"k{pair.k}.safetensors")
    command = [*script("data_prep/encode_units.py"), str(options.train), str(units), "--codebook", book]
    command += ["--duration-penalty", f"{pair.penalty:g}", "--deduplicate"]
    yield Step(f"4-units-{pair.name}", f"Encode as units, {pair.name}", command, [units, partial(units)], resumes=True)

    command = [*script("data_prep/merge_manifest.py"), str(rows), str(units), "--kind", "fields"]
    command += ["--output", str(joined)]
    yield Step(f"4-join-{pair.name}", "Join units and codec tokens", command, [joined])

    command = [*script("data_prep/split_units.py"), str(joined), str(split), "--valid", "0.08", "--jsonl-only"]
    yield Step(f"4-split-{pair.name}", "Hold out recordings", [*command, "--seed", str(options.seed)], [split])

    updates = str(options.updates)
    command = [fairseq("fairseq-train"), str(split), "--user-dir", shown(ROOT / "speechdlm_ext")]
    command += ["--task", "unit_to_codec_task", "--units", str(pair.k), "--codec-types", str(options.codes)]
    command += ["--codec-rate", RATE, "--arch", "ellav_small", "--decoder-embed-dim", "128", "--decoder-layers", "3"]
    command += ["--decoder-ffn-embed-dim", "384", "--decoder-attention-heads", "4", "--dropout", "0.1"]
    command += ["--criterion", "unit_to_codec_criterion", "--max-tokens", "4000", "--optimizer", "adam"]
    command += ["--lr", "0.004", "--lr-scheduler", "cosine", "--warmup-updates", "30", "--max-update", updates]
    command += [
        "--weight-decay",
        "0.01",
        "--clip-norm",
        "1.0",
        "--save-dir",
        str(checkpoints),
        "--no-epoch-checkpoints",
    ]
    command += ["--save-interval-updates", "50", "--keep-interval-updates", "1", "--validate-interval-updates", "50"]
    command += ["--save-interval", "1000000", "--validate-interval", "1000000", "--log-format", "simple"]
    command += ["--log-interval", "10", "--num-workers", "0", "--cpu", "--seed", str(options.seed)]
    title = f"Train an acoustic model, {pair.name}, {updates} updates"
    yield Step(f"5-train-{pair.name}", title, command, [checkpoints], resumes=True)


def hifigan_steps(options: argparse.Namespace) -> Iterator[Step]:
    """A unit HiFi-GAN for each K, of units without a penalty."""
    for k in sorted({pair.k for pair in options.pairs}):
        out, book = options.output / f"hifigan-k{k}", str(options.output / f"k{k}.safetensors")
        units, split, checkpoints, vocoder = (out / name for name in ("units.jsonl", "split", "checkpoints", "vocoder"))
        command = [*script("data_prep/encode_units.py"), str(options.speaker), str(units), "--codebook", book]
        yield Step(f"5-units-hifigan-k{k}", "Encode as units", command, [units, partial(units)], resumes=True)
        command = [*script("data_prep/split_units.py"), str(units), str(split), "--jsonl-only", "--seed", "1"]
        yield Step(f"5-split-hifigan-k{k}", "Hold out recordings", command, [split])
        command = [fairseq("fairseq-train"), str(split), "--user-dir", shown(ROOT / "speechdlm_ext")]
        command += ["--task", "unit_hifigan_task", "--manifest", str(options.speaker), "--codebook", book]
        command += ["--arch", "unit_hifigan_small", "--criterion", "unit_hifigan_criterion", "--batch-size", "4"]
        command += ["--upsample-initial-channel", "64", "--resblock-kernel-sizes", "3,7", "--crop-frames", "8"]
        command += ["--optimizer", "adam", "--adam-betas", "(0.8, 0.99)", "--lr", "0.001", "--num-workers", "0"]
        command += ["--max-update", str(options.hifigan_updates), "--save-dir", str(checkpoints), "--cpu"]
        command += ["--no-epoch-checkpoints", "--best-checkpoint-metric", "mel_loss", "--log-format", "simple"]
        command += ["--save-interval", "1000000", "--validate-interval", "1000000", "--seed", str(options.seed)]
        yield Step(f"5-train-hifigan-k{k}", f"Train a unit HiFi-GAN, K = {k}", command, [checkpoints], resumes=True)
        command = [*script("scripts/export_vocoder.py"), str(checkpoints / "checkpoint_last.pt"), str(vocoder)]
        yield Step(f"5-export-hifigan-k{k}", "Export it", command, [vocoder])


def write_untold(test: Path, path: Path) -> None:
    """The test set without its texts, for a recogniser."""
    from speechdlm_ext.io.manifest import write_jsonl
    from speechdlm_ext.io.recordings import read_manifest

    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, [{name: value for name, value in row.items() if name != "text"} for row in read_manifest(test)])


def summary(options: argparse.Namespace) -> str:
    """Word and character error rates of all roads, as a table in Markdown."""
    import csv

    from speechdlm_ext.io.manifest import read_jsonl
    from speechdlm_ext.io.recordings import read_manifest
    from speechdlm_ext.metrics.words import error_rates

    said = {row["id"]: row["text"] for row in read_manifest(options.test)}
    found = {row["id"]: row.get("text", "") for row in read_jsonl(options.output / "recognised" / "original.jsonl")}
    rates = error_rates(list(said.values()), [found.get(name, "") for name in said])
    lines = ["| road | K | λ | bit/s | WER | CER |", "|---|---|---|---|---|---|"]
    lines.append(f"| recordings | | | | {rates['words']['corpus']:.1%} | {rates['characters']['corpus']:.1%} |")
    for table in sorted((options.output / "recognised").glob("*/wer_bitrate.csv")):
        with open(table, encoding="utf-8") as file:
            for row in csv.DictReader(file):
                numbers = f"{row['k']} | {float(row['lambda']):g} | {float(row['bitrate']):.0f}"
                lines.append(f"| {table.parent.name} | {numbers} | {float(row['wer']):.1%} | {float(row['cer']):.1%} |")
    return "\n".join(lines)


def run_demo(options: argparse.Namespace) -> None:
    """Run the commands, or what remains of them, and print the table.

    Raises:
        InputError: a command failed.
    """
    start = time.monotonic()
    options.digits = None if options.speaker else options.output / "digits"
    if options.digits is not None:
        options.speaker, options.test = options.digits / "train.json", options.digits / "valid.json"
    else:
        options.asr = options.asr or "pocketsphinx"
    options.train = options.train or options.speaker
    run_steps((replace(step, environment=ONE_THREAD) for step in steps(options)), options.output, lambda done: None)
    print(f"\n{summary(options)}\n\n{time.monotonic() - start:.0f} s")
