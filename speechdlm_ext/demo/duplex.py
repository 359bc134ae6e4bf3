"""The demo of duplex models: conversations by a script, training, held-out conversations, and a page to listen."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from speechdlm_ext.demo import speech_recognition
from speechdlm_ext.demo.run import (
    ROOT,
    Step,
    binarize_step,
    fairseq,
    partial,
    run_steps,
    script,
    shown,
    train_command,
    versions,
)
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.manifest import read_jsonl

_SHOWN = 8  # conversations with their sound in the page
_VOCABULARY = 160
SYSTEMS = {"duplex model": "said", "cascade": "cascade", "SpeechDLM": "speech-dlm"}  # and the folders of their sound
_ROWS = (  # of the table: figure, meaning, factor, unit
    ("answered_in_time", "of {answers} words, answered within 1.04 s of their end", 100, " %"),
    ("response_latency", "mean latency", 1, " s"),
    ("yields", "of interruptions, the agent ends within 1.5 s", 100, " %"),
    ("barge_in_latency", "mean time until then", 1, " s"),
    ("false_starts", "turns that no word asked for", 1, ""),
    ("follows_script", "answers with the words of the script", 100, " %"),
)


def steps(options: argparse.Namespace) -> Iterator[Step]:
    """The commands in order; one is yielded when those before it have run."""
    out, seed = options.output, str(options.seed)
    for name, count, more in (("corpus", options.conversations, []), ("held-out", options.held_out, ["--held-out"])):
        number = str(options.seed + bool(more))
        command = [
            *script("data_prep/make_requests.py"),
            str(out / name),
            "--count",
            str(count),
            "--seed",
            number,
            *more,
        ]
        yield Step(f"1-{name}", f"Synthesize {count} conversations", command, [out / name], depends=versions())

    manifest, codebook, data = out / "corpus/manifest.jsonl", out / "codebook.safetensors", out / "data"
    command = [*script("data_prep/train_codebook.py"), str(manifest), str(codebook)]
    command += ["--encoder", "logmel", "--num-units", "50", "--seed", seed]
    yield Step("2-codebook", "Make the codebook of the agent's sound", command, [codebook])

    command = [*script("data_prep/make_duplex_data.py"), str(manifest), str(data), "--valid", "0.04", "--seed", seed]
    command += ["--codec", f"units:{codebook}", "--vocab-size", str(_VOCABULARY)]
    yield Step("3-data", "Encode the agent's sound, make the tokenizer", command, [data])

    shutil.copyfile(codebook, data / codebook.name)
    shutil.copyfile(ROOT / "configs/duplex_s2s_small.model.yaml", data / "model.yaml")
    checkpoints, updates = out / "checkpoints", options.updates
    command = [fairseq("fairseq-train"), str(data), "--user-dir", shown(ROOT / "speechdlm_ext")]
    command += ["--task", "duplex_s2s_task", "--arch", "duplex_s2s", "--criterion", "duplex_criterion"]
    command += ["--model-config", str(data / "model.yaml"), "--text-overflow", "turn", "--max-tokens", "2000"]
    command += ["--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--weight-decay", "0.01", "--clip-norm", "1"]
    command += ["--lr", "0.002", "--lr-scheduler", "polynomial_decay", "--warmup-updates", str(min(100, updates // 4))]
    command += ["--total-num-update", str(updates), "--max-update", str(updates)]
    command += ["--save-dir", str(checkpoints), "--tensorboard-logdir", str(checkpoints / "tensorboard")]
    command += [
        "--no-epoch-checkpoints",
        "--log-format",
        "simple",
        "--log-interval",
        str(max(1, min(10, updates // 8))),
    ]
    command += ["--num-workers", "0", "--cpu", "--seed", seed]
    yield Step("4-train", f"Train for {updates} updates", command, [checkpoints], resumes=True)

    said, held_out = out / "said", out / "held-out/manifest.jsonl"
    command = [*script("scripts/duplex_eval.py"), str(held_out), "--output", str(said)]
    command += ["--checkpoint", str(checkpoints / "checkpoint_last.pt"), "--device", "cpu"]
    yield Step("5-evaluate", "Let the model answer held-out users", command, [said])
    yield from _cascade(options, manifest, held_out, codebook)
    yield from _speech_dlm(options, manifest, held_out, codebook)
    command = [*_baseline("compare", held_out, out / "compared.json", codebook), "--systems"]
    command += [f"{name}={out / folder}" for name, folder in SYSTEMS.items()]
    yield Step("14-compare", "Measure all of them from their sound", command, [out / "compared.json"])


def _baseline(step: str, manifest: Path, output: Path, codebook: Path | None = None) -> list[str]:
    command = [shown(Path(sys.executable)), "-m", "speechdlm_ext.demo.duplex_baselines", step, str(manifest)]
    return [*command, str(output), *([] if codebook is None else ["--codec", f"units:{codebook}"])]


def _cascade(options: argparse.Namespace, manifest: Path, held_out: Path, codebook: Path) -> Iterator[Step]:
    """A recogniser of the user's words, and the script."""
    out = options.output
    words, checkpoints, answers = out / "words", out / "words-checkpoints", out / "cascade"
    yield Step("6-words", "List the users' words", _baseline("words", manifest, words), [words / "train.jsonl"])
    command = [*script("data_prep/train_tokenizer.py"), str(words / "train.jsonl"), str(words), "--kind", "char"]
    yield Step("7-letters", "Make their vocabulary", command, [words / "dict.ltr.txt", words / "tokenizer.json"])
    settings = argparse.Namespace(updates=max(1, options.updates // 2), width=64, batch_size=32, seed=options.seed)
    command = speech_recognition.train_command(settings, words, checkpoints)
    yield Step("8-recogniser", "Train a recogniser of them", command, [checkpoints], resumes=True)
    command = _baseline("cascade", held_out, answers, codebook)
    command += ["--asr", f"ctc:{checkpoints / 'checkpoint_best.pt'}"]
    yield Step("9-cascade", "Let a cascade answer held-out users", command, [answers])


def _speech_dlm(options: argparse.Namespace, manifest: Path, held_out: Path, codebook: Path) -> Iterator[Step]:
    """A SpeechDLM of both channels' units, trained on the same dialogues for as long; the user's channel is given."""
    out, seed = options.output, str(options.seed)
    split, data, checkpoints = out / "units/split", out / "units/data-bin", out / "units/checkpoints"
    for name, rows in (("corpus", manifest), ("held-out", held_out)):
        units = out / f"units/{name}.jsonl"
        command = [*script("data_prep/encode_units.py"), str(rows), str(units), "--codebook", str(codebook)]
        yield Step(f"10-{name}", f"Encode both channels of {name}", command, [units, partial(units)], resumes=True)
    command = [*script("data_prep/split_units.py"), str(out / "units/corpus.jsonl"), str(split), "--valid", "0.04"]
    yield Step("11-split", "Hold out dialogues", [*command, "--segment-seconds", "15", "--seed", seed], [split])
    for channel in ("unitA", "unitB"):
        yield binarize_step(f"11-{channel}", channel, split, data)
    stamp = json.loads((out / "steps/4-train.json").read_text(encoding="utf-8"))
    command = train_command(argparse.Namespace(updates=2 * options.updates, seed=options.seed), data, checkpoints)
    command += ["--stop-time-hours", f"{stamp['seconds'] / 3600:.4f}"]
    yield Step("12-speech-dlm", "Train a SpeechDLM for as long", command, [checkpoints], resumes=True)
    samples, answers = out / "units/answers.jsonl", out / "speech-dlm"
    command = [*script("scripts/sample_speech_dlm.py"), "--in-file", str(out / "units/held-out.jsonl")]
    command += ["--out-file", str(samples), "--ckpt", str(checkpoints / "checkpoint_best.pt"), "--data", str(data)]
    command += ["--condition-on", "unitA", "--prompt-frames", "10", "--beam", "1", "--sampling-topp", "0.9"]
    command += ["--batch-size", "16", "--seed", seed, "--device", "cpu"]
    yield Step("13-answers", "Let it answer held-out users", command, [samples, partial(samples)], resumes=True)
    command = [*_baseline("vocode", held_out, answers, codebook), "--samples", str(samples)]
    yield Step("13-vocode", "Synthesize its answers", command, [answers])


def run_duplex_demo(options: argparse.Namespace) -> Path:
    """Run the demo, or what remains of it.

    Args:
        options: of ``scripts/demo_duplex.py``.

    Returns:
        The page.

    Raises:
        InputError: an option is invalid, or a command failed.
    """
    for name in ("conversations", "held_out", "updates"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected 1 or more")
    print(f"A duplex model on synthetic conversations; results in {options.output}/. It can be stopped at any time.")
    page = options.output / "report.html"
    run_steps(steps(options), options.output, lambda done: write_page(options.output, done, page))
    print(f"\nOpen {page.resolve().as_uri()} in a browser.", flush=True)
    return page


def write_page(out: Path, done: Sequence[tuple[Step, float]], page: Path) -> None:
    """Conversations with their sound and text, figures, curves, and the commands."""
    from speechdlm_ext.demo.report import commands_section, curves
    from speechdlm_ext.report.charts import line_chart
    from speechdlm_ext.report.page import Section, render_page

    found = json.loads((out / "said/figures.json").read_text(encoding="utf-8"))

    def percent(name: str) -> str:
        return "–" if found[name] is None else f"{100 * found[name]:.0f} %"

    finding = (
        f"{found['conversations']} conversations with manners of speaking that training never had: "
        f"{percent('answered_in_time')} of {found['answers']} words are answered within 1.04 s of their end, "
        f"{percent('follows_script')} by the script; of {found['interruptions']} interruptions the agent gives way to "
        f"{percent('yields')}, and speaks {found['false_starts']} times unasked."
    )
    charts = "".join(
        line_chart(curves(out, name), "updates", label)
        for name, label in (("text_loss", "Loss of text, nats per frame"), ("audio_loss", "Loss of codes, nats"))
    )
    compared = json.loads((out / "compared.json").read_text(encoding="utf-8"))
    sections = [
        Section("compared", "Beside a cascade and a SpeechDLM", comparison(compared), _COMPARED),
        Section("conversations", "What was said", _conversations(out / "said"), finding),
        Section("training", "Training", f'<div class="pair">{charts}</div>'),
        commands_section(out, done),
    ]
    lead = (
        "A model of 1.6 million parameters that hears a user and answers at the same time, frame by frame. " + finding
    )
    with atomic_write(page) as file:
        file.write(render_page("A duplex model by its script", lead, sections))


_COMPARED = (
    "All are measured from their sound: turns by a detector of energy, words by the script's answer whose units are "
    "nearest. The cascade waits for 0.24 s of silence, recognises the word and says the script's answer."
)


def comparison(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of figures, a column a system."""
    head = "".join(f"<th>{escape(name)}</th>" for name in found)
    body = ""
    for figure, meaning, factor, unit in _ROWS:
        values = [None if one[figure] is None else factor * one[figure] for one in found.values()]
        cells = ["–" if one is None else f"{one:.2f}{unit}" if unit == " s" else f"{one:.0f}{unit}" for one in values]
        text = meaning.format(answers=next(iter(found.values()))["answers"])
        body += f"<tr><td>{text}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _conversations(folder: Path) -> str:
    """The first conversations with their sound, user and model on two channels, and what each says when."""
    import torch

    from speechdlm_ext.io.audio import read_audio
    from speechdlm_ext.report.player import Player

    body = ""
    for row in read_jsonl(folder / "turns.jsonl")[:_SHOWN]:
        waves = [read_audio(folder / row["id"] / name, 16000)[0] for name in ("input.wav", "output.wav")]
        size = min(wave.shape[1] for wave in waves)
        wave = torch.cat([wave[:, :size] for wave in waves]).numpy()
        sides = [row["user"], row["agent"]]
        activity = [[(turn["start"], turn["start"] + turn["duration"]) for turn in side] for side in sides]
        body += Player.of_wave(row["id"], wave, 16000, activity, note="user, model").render()
        lines = [(turn["start"], "user", turn["text"]) for turn in row["user"]]
        lines += [(turn["start"], "model", turn["text"]) for turn in row["agent"]]
        lines += [(turn["start"], "script", turn["text"]) for turn in row["reference"]]
        body += (
            "<ul>" + "".join(f"<li>{t:.2f} s {who}: {escape(text)}</li>" for t, who, text in sorted(lines)) + "</ul>"
        )
    return f'<div class="samples">{body}</div>'
