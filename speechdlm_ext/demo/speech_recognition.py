"""The demo of speech recognition: digits, a vocabulary, training, transcripts, and a page that compares them."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from speechdlm_ext.demo import wav2vec_baseline
from speechdlm_ext.demo.run import ROOT, Step, fairseq, partial, run_steps, script, shown, versions
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.manifest import read_jsonl, write_jsonl

SAMPLE_RATE = 8000  # Hz: digits are said over telephones, and the recordings that are free are of that band
_PIECES = "52"  # of sentencepiece: the ten digits, and what these are made of
_SHOWN = 12  # recordings with their sound in the page


def network(width: int) -> dict[str, object]:
    """A small QuartzNet, in the form of NeMo's files: seven layers, a frame every 20 ms, a telephone's band."""

    def block(filters: int, kernel: int, **more: object) -> dict[str, object]:
        return {
            "filters": filters, "repeat": 1, "kernel": [kernel], "stride": [1], "dilation": [1], "dropout": 0.1,
            "residual": False, "separable": True, **more,
        }  # fmt: skip

    blocks = [block(width, 11, stride=[2])]
    blocks += [block(width, kernel, residual=True) for kernel in (11, 13, 15, 17)]
    blocks += [block(2 * width, 29, dilation=[2]), block(2 * width, 1, separable=False)]
    return {
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor", "sample_rate": SAMPLE_RATE,
            "window_size": 0.02, "window_stride": 0.01, "window": "hann", "features": 64, "n_fft": 512,
            "normalize": "per_feature", "dither": 1e-5, "pad_to": 16,
        },
        "spec_augment": {"freq_masks": 2, "freq_width": 10, "time_masks": 2, "time_width": 8},
        "encoder": {"feat_in": 64, "activation": "relu", "conv_mask": True, "jasper": blocks},
    }  # fmt: skip


def steps(options: argparse.Namespace, words: bool = False) -> Iterator[Step]:
    """The commands in order; one is yielded when those before it have run.

    Args:
        options: of ``scripts/demo_asr.py``.
        words: the ten digits are symbols of the vocabulary, beside the pieces that make them; else characters are.
    """
    out, seed = options.output, str(options.seed)
    corpus, checkpoints, transcripts = out / "corpus", out / "checkpoints", out / "transcripts.jsonl"
    command = [*script("data_prep/make_digits.py"), str(corpus), "--strings", str(options.strings), "--seed", seed]
    command += ["--sample-rate", str(SAMPLE_RATE)]
    if getattr(options, "espeak_only", False):
        command.append("--espeak-only")
    if getattr(options, "sentences", 0):
        command += ["--sentences", str(options.sentences)]
    if options.recordings is not None:
        command += ["--recordings", str(options.recordings), "--held-out", *options.held_out]
    yield Step("1-corpus", "Generate strings of spoken digits", command, [corpus], depends=versions())

    kind = ["bpe", "--vocab-size", _PIECES] if words else ["char"]
    command = [*script("data_prep/train_tokenizer.py"), str(corpus / "train.json"), str(corpus), "--kind", *kind]
    yield Step("2-tokenizer", "Make the vocabulary", command, [corpus / "dict.ltr.txt", corpus / "tokenizer.json"])

    title = f"Train a small QuartzNet for {options.updates} updates"
    command = train_command(options, corpus, checkpoints)
    yield Step("3-train", title, command, [checkpoints], resumes=True)
    spent = json.loads((out / "steps" / "3-train.json").read_text(encoding="utf-8"))["seconds"]

    tested = read_jsonl(corpus / ("test.json" if (corpus / "test.json").exists() else "valid.json"))
    write_jsonl(out / "recordings.jsonl", ({k: v for k, v in row.items() if k != "text"} for row in tested))
    command = [*script("scripts/transcribe.py"), str(out / "recordings.jsonl"), str(transcripts)]
    command += ["--asr", f"ctc:{checkpoints / 'checkpoint_best.pt'}", "--device", "cpu"]
    yield Step("4-transcribe", "Transcribe held-out speakers", command, [transcripts, partial(transcripts)], True)
    if options.baseline:
        yield from wav2vec_baseline.steps(
            corpus, out / "wav2vec", "test" if (corpus / "test.json").exists() else "valid", SAMPLE_RATE,
            options.batch_size, spent, options.seed,
        )  # fmt: skip


def train_command(options: argparse.Namespace, corpus: Path, checkpoints: Path) -> list[str]:
    """``fairseq-train``: NeMo's recipe for QuartzNet, for minutes of sound and of computing."""
    updates = options.updates
    command = [fairseq("fairseq-train"), str(corpus), "--user-dir", shown(ROOT / "speechdlm_ext")]
    command += ["--task", "speech_recognition", "--sample-rate", str(SAMPLE_RATE), "--criterion", "speech_ctc"]
    command += ["--arch", "quartznet", "--configuration", json.dumps(network(options.width))]
    command += ["--ctc-reduction", "mean", "--speeds", "0.9,1.0,1.1"]
    command += ["--optimizer", "novograd", "--novograd-betas", "(0.8,0.5)", "--weight-decay", "0.001"]
    command += ["--lr", "0.02", "--lr-scheduler", "cosine_annealing", "--warmup-updates", str(min(20, updates // 4))]
    command += ["--batch-size", str(options.batch_size), "--clip-norm", "5", "--best-checkpoint-metric", "wer"]
    return [*command, *run_options(updates, checkpoints, options.seed)]


def run_options(updates: int, checkpoints: Path, seed: int) -> list[str]:
    """Of ``fairseq-train``: how long, where to, and how often it validates, saves and logs."""
    interval = str(max(5, min(100, updates // 4)))
    command = ["--max-update", str(updates), "--seed", str(seed), "--num-workers", "0", "--cpu"]
    command += ["--save-dir", str(checkpoints), "--tensorboard-logdir", str(checkpoints / "tensorboard")]
    command += ["--save-interval-updates", interval, "--keep-interval-updates", "1"]
    command += ["--validate-interval-updates", interval, "--no-epoch-checkpoints"]
    command += ["--save-interval", "1000000", "--validate-interval", "1000000"]
    return [*command, "--log-format", "simple", "--log-interval", str(max(1, min(10, updates // 8)))]


def run_asr_demo(options: argparse.Namespace) -> Path:
    """Run the demo, or what remains of it.

    Args:
        options: of ``scripts/demo_asr.py``.

    Returns:
        The page.

    Raises:
        InputError: an option is invalid, or a command failed.
    """
    for name in ("strings", "updates", "width", "batch_size"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected 1 or more")
    if (options.recordings is None) != (not options.held_out):
        raise InputError("--recordings and --held-out: the speakers to test on belong to the recordings")
    print(f"From spoken digits to a recogniser of them; results in {options.output}/. It can be stopped at any time.")
    page = options.output / "report.html"
    run_steps(steps(options, words=True), options.output, lambda done: write_page(options.output, done, page))
    print(f"\nOpen {page.resolve().as_uri()} in a browser.", flush=True)
    return page


def write_page(out: Path, done: Sequence[tuple[Step, float]], page: Path) -> None:
    """Texts beside sounds, error rates, curves, errors by word, and the commands."""
    from speechdlm_ext.demo.report import commands_section, curves
    from speechdlm_ext.metrics.words import error_rates
    from speechdlm_ext.report.charts import line_chart
    from speechdlm_ext.report.page import Section, render_page

    corpus = out / "corpus"
    rows = read_jsonl(corpus / ("test.json" if (corpus / "test.json").exists() else "valid.json"))
    found = {row["audio_filepath"]: row.get("text", "") for row in read_jsonl(out / "transcripts.jsonl")}
    pairs = [(row["text"], found.get(row["audio_filepath"], "")) for row in rows]
    rates = error_rates([said for said, _ in pairs], [text for _, text in pairs])
    speakers = sorted({row["speaker"] for row in rows})
    finding = (
        f"{len(rows)} strings of {len(speakers)} speakers that training never had: word error rate "
        f"{100 * rates['words']['corpus']:.1f} %, character error rate {100 * rates['characters']['corpus']:.1f} %."
    )
    if (log := out / "logs" / f"{wav2vec_baseline.LAST}.log").exists():
        rate = wav2vec_baseline.word_error_rate(log)
        finding += f" fairseq's wav2vec 2.0 of equal size, from scratch and for as long: {rate:.1f} %."
    charts = "".join(
        line_chart(curves(out, name), "updates", label)
        for name, label in (("loss", "Loss, nats per symbol"), ("wer", "Word error rate, %"))
    )
    training = f'<div class="pair">{charts}</div>'
    minutes = sum(row["duration"] for row in read_jsonl(corpus / "train.json")) / 60
    sections = [
        Section("texts", "What was said, and what was recognised", _texts(rows, pairs), finding),
        Section("training", "Training", training, f"On {minutes:.1f} minutes; held out are other synthetic voices."),
        Section("words", "Errors by word", _words(pairs)),
        commands_section(out, done),
    ]
    lead = "A QuartzNet of seven layers, trained by fairseq-train with CTC on strings of spoken digits. " + finding
    with atomic_write(page) as file:
        file.write(render_page("Digits, recognised", lead, sections))


def _texts(rows: Sequence[dict[str, str]], pairs: Sequence[tuple[str, str]]) -> str:
    """The first recordings of every speaker in turn, each with its sound and both texts."""
    from speechdlm_ext.io.audio import read_audio
    from speechdlm_ext.report.sound import audio_uri

    figures = ""
    for row, (said, text) in list(zip(rows, pairs, strict=True))[:_SHOWN]:
        wave, rate = read_audio(row["audio_filepath"])
        verdict = "as said" if said == text else "differs"
        figures += (
            f"<figure><figcaption><b>{escape(row['speaker'])}</b> <span>{verdict}</span></figcaption>"
            f'<audio controls preload="none" src="{audio_uri(wave.numpy(), rate)}"></audio>'
            f"<p>said: {escape(said)}<br>recognised: {escape(text) or '(nothing)'}</p></figure>"
        )
    return figures


def _words(pairs: Sequence[tuple[str, str]]) -> str:
    """How often each word was said, recognised, taken for which others, missed; and what was inserted."""
    import jiwer

    from speechdlm_ext.report.page import table

    said: Counter[str] = Counter()
    right: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    inserted: Counter[str] = Counter()
    taken: dict[str, Counter[str]] = {}
    output = jiwer.process_words([a for a, _ in pairs], [b for _, b in pairs])
    for reference, hypothesis, chunks in zip(output.references, output.hypotheses, output.alignments, strict=True):
        said.update(reference)
        for chunk in chunks:
            ours = reference[chunk.ref_start_idx : chunk.ref_end_idx]
            theirs = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
            if chunk.type == "equal":
                right.update(ours)
            elif chunk.type == "delete":
                missed.update(ours)
            elif chunk.type == "insert":
                inserted.update(theirs)
            else:
                for a, b in zip(ours, theirs, strict=True):
                    taken.setdefault(a, Counter())[b] += 1
    rows = [
        [word, str(count), str(right[word]),
         ", ".join(f"{other} {n}" for other, n in taken.get(word, Counter()).most_common(3)),
         str(missed[word] or ""), str(inserted[word] or "")]
        for word, count in sorted(said.items(), key=lambda item: (right[item[0]] / item[1], item[0]))
    ]  # fmt: skip
    others = [[word, "0", "0", "", "", str(count)] for word, count in inserted.most_common() if word not in said]
    return table(["Word", "said", "recognised", "taken for", "missed", "inserted"], rows + others)
