"""Turn-taking evaluation: compare generated dialogues with recorded ones, as figures and as a page."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from speechdlm_ext.commands.old_names import add_old_names
from speechdlm_ext.errors import run_command
from speechdlm_ext.io.pool import available_cores


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Writes metrics.json and metrics.csv (docs/metrics.md explains every figure) and a page. A run that was "
        "stopped resumes. A corpus is a folder of two-channel recordings or of pairs of mono ones, a manifest, a unit "
        "file, an RTTM file, or one recording.",
    )
    parser.add_argument("generated", type=Path, help="corpus to evaluate")
    parser.add_argument("--reference", type=Path, metavar="CORPUS", help="recorded dialogues to compare with")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for the results")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the page (default: index.html in FOLDER)")
    parser.add_argument(
        "--mono-pairs",
        action="store_true",
        help="two mono files NAME-1 and NAME-2 (or -0, -1; _ch1, _ch2) are the channels of one dialogue; without it, "
        "only -A and -B, _left and _right, and input.wav and output.wav of a folder are",
    )
    prompts = parser.add_argument_group("generated dialogues that continue recorded ones")
    prompts.add_argument(
        "--prompts",
        nargs="?",
        const="",
        metavar="FILE",
        help="evaluate the continuations alone, and correlate them with the recorded ones; FILE says what each "
        "continues, as sample_speech_dlm.py writes it; without FILE, the names do",
    )
    prompts.add_argument("--prompt-seconds", type=float, default=30.0, help="where FILE does not say (default: 30)")
    prompts.add_argument("--continuation-seconds", type=float, default=90.0, help="at most (default: 90)")
    prompts.add_argument("--continuations-only", action="store_true", help="generated files begin after the prompt")
    activity = parser.add_argument_group("speech activity")
    activity.add_argument(
        "--vad",
        "--detector",
        metavar="DETECTOR",
        help="silero (default), energy, ten, pyannote, units, rttm, field:NAME (of a manifest); with options, as "
        "silero:pad=0.2 (evaluate_detection.py --help lists them)",
    )
    activity.add_argument(
        "--rttm", type=Path, nargs="+", default=[], metavar="FILE", help="default: in or beside a corpus"
    )
    activity.add_argument(
        "--silence-units", type=int, nargs="+", default=[], metavar="N", help="default: estimated from the units"
    )
    activity.add_argument("--units", type=Path, metavar="FILE", help="unit file of the generated audio, by name")
    activity.add_argument("--reference-units", type=Path, metavar="FILE", help="the same, of the reference")
    activity.add_argument("--frame-rate", type=float, default=50.0, help="of units whose file does not say, Hz")
    activity.add_argument("--ipu-silence", type=float, default=0.2, help="silence that bounds an IPU, s (default: 0.2)")
    activity.add_argument("--max-backchannel", type=float, default=1.0, help="longest backchannel, s (default: 1)")
    activity.add_argument("--interruption-overlap", type=float, default=0.2, help="seconds, at least (default: 0.2)")
    parser.add_argument(
        "--asr",
        default="",
        metavar="RECOGNISER",
        help="transformers:FOLDER_OR_NAME, torchaudio:BUNDLE[=WEIGHTS], fairseq:CHECKPOINT[=DICTIONARY], pocketsphinx",
    )
    parser.add_argument(
        "--asr-chunk-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="recognised at once, at most: longer speech is cut where it is quietest (default: 30)",
    )
    parser.add_argument(
        "--embed-megabytes",
        type=float,
        default=24.0,
        metavar="MB",
        help="of audio in the page; the files of further dialogues are linked (default: 24)",
    )
    parser.add_argument("--checkpoint", type=Path, help="of a dialogue model, for the likelihood of the units")
    parser.add_argument("--data", type=Path, metavar="DATA_BIN", help="folder with the checkpoint's dictionaries")
    parser.add_argument(
        "--full-duplex-bench",
        type=Path,
        metavar="FOLDER",
        help="write the generated dialogues in the layout of that benchmark (channel A is the user, B the model), and "
        "compute its measures of timing; a folder in its layout can be a corpus",
    )
    parser.add_argument("--resamples", type=int, default=1000, help="of the confidence intervals (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of the resampling (default: 1)")
    parser.add_argument("--num-workers", type=int, default=available_cores(), help="processes (default: all cores)")
    old = {"--out": "--output", "--jobs": "--num-workers", "--asr-seconds": "--asr-chunk-seconds"}
    add_old_names(parser, {**old, "--backchannel-longest": "--max-backchannel"})
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from tqdm import tqdm

    from speechdlm_ext.asr import RecogniserOptions
    from speechdlm_ext.evaluation.eval_set import PromptOptions
    from speechdlm_ext.evaluation.evaluation import EvaluationOptions, evaluate, write_metrics
    from speechdlm_ext.metrics.bootstrap import BootstrapOptions
    from speechdlm_ext.metrics.turn_taking import TurnTakingOptions
    from speechdlm_ext.report.evaluation import PageOptions, page_corpora, write_page

    workers = max(1, options.num_workers)
    page = PageOptions(embed_megabytes=options.embed_megabytes, num_workers=workers)
    prompts = None
    if options.prompts is not None:
        table = Path(options.prompts) if options.prompts else None
        prompts = PromptOptions(
            table, options.prompt_seconds, options.continuation_seconds, not options.continuations_only
        )
    bar = partial(tqdm, unit="dialogue", disable=None)
    evaluation = evaluate(
        EvaluationOptions(
            generated=options.generated,
            reference=options.reference,
            mono_pairs=options.mono_pairs,
            prompts=prompts,
            vad=options.vad,
            rttm=options.rttm,
            silence_units=options.silence_units,
            units=options.units,
            reference_units=options.reference_units,
            frame_rate=options.frame_rate,
            asr=RecogniserOptions(options.asr, options.asr_chunk_seconds),
            checkpoint=options.checkpoint,
            data=options.data,
            full_duplex=options.full_duplex_bench,
            num_workers=workers,
            turn_taking=TurnTakingOptions(options.ipu_silence, options.max_backchannel, options.interruption_overlap),
            bootstrap=BootstrapOptions(options.resamples, seed=options.seed),
        ),
        options.output,
        progress=lambda items, total: bar(items, "measuring", total),
    )
    for line in evaluation.result["skipped"]:
        text = f"skipped: {line['corpus']} {line['dialogue']}: {line['reason']}"
        print(text.encode("utf-8", "replace").decode("utf-8"))
    files = write_metrics(evaluation, options.output)
    html = options.html or options.output / "index.html"
    page = replace(page, progress=lambda items, total: bar(items, "writing the page", total))
    write_page(html, evaluation.result, page_corpora(evaluation), page)
    print(*files, html, sep="\n")


if __name__ == "__main__":
    run_command(main)
