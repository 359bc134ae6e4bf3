"""Compare generated dialogues with real ones: turn-taking, units, sound and words, as figures and as a page."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from speechdlm_ext.errors import run_command


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Writes metrics.json (docs/evaluation.md says what is in it), metrics.csv and index.html. Stopped "
        "anywhere and started again, it goes on where it was. A corpus is a folder of two-channel recordings or of "
        "pairs of mono ones, a manifest, a unit file, or an RTTM file.",
    )
    parser.add_argument("generated", type=Path, help="corpus to judge")
    parser.add_argument("--reference", type=Path, metavar="CORPUS", help="real conversations to compare with")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    prompts = parser.add_argument_group("generated dialogues that continue real ones")
    prompts.add_argument(
        "--prompts",
        nargs="?",
        const="",
        metavar="FILE",
        help="judge the continuations alone, and correlate them with the real ones; FILE says what each continues, as "
        "sample_speech_dlm.py writes it; without FILE, the names do",
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
        "--silence-units", type=int, nargs="+", default=[], metavar="N", help="default: found from data"
    )
    activity.add_argument(
        "--units", type=Path, metavar="FILE", help="unit file that goes with generated sound, by name"
    )
    activity.add_argument("--reference-units", type=Path, metavar="FILE", help="the same, of the reference")
    activity.add_argument("--frame-rate", type=float, default=50.0, help="of units whose file does not say, Hz")
    activity.add_argument("--ipu-silence", type=float, default=0.2, help="that ends a unit of speech, s (default: 0.2)")
    activity.add_argument("--backchannel-longest", type=float, default=1.0, help="seconds (default: 1)")
    activity.add_argument("--interruption-overlap", type=float, default=0.2, help="seconds, at least (default: 0.2)")
    parser.add_argument(
        "--asr", default="", help="pocketsphinx, torchaudio:BUNDLE[=WEIGHTS], or fairseq:CHECKPOINT[=DICTIONARY]"
    )
    parser.add_argument(
        "--asr-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="that are recognised at once, at most: longer speech is cut where it is quietest (default: 30)",
    )
    parser.add_argument(
        "--embed-megabytes",
        type=float,
        default=24.0,
        metavar="MB",
        help="of sound in index.html; the files of further dialogues are linked (default: 24)",
    )
    parser.add_argument("--checkpoint", type=Path, help="of a dialogue model: how likely are the units")
    parser.add_argument("--data", type=Path, metavar="DATA_BIN", help="folder with the checkpoint's dictionaries")
    parser.add_argument(
        "--full-duplex-bench",
        type=Path,
        metavar="DIR",
        help="write the generated dialogues as that benchmark has them (channel A is the user, B the model), and give "
        "its measures of timing; a folder in its layout is read as a corpus",
    )
    parser.add_argument("--resamples", type=int, default=1000, help="of the confidence intervals (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of the resampling (default: 1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from tqdm import tqdm

    from speechdlm_ext.asr.recognisers import RecogniserOptions
    from speechdlm_ext.evaluation.evaluation import EvaluationOptions, evaluate, write_evaluation
    from speechdlm_ext.evaluation.prompts import PromptOptions
    from speechdlm_ext.metrics.bootstrap import BootstrapOptions
    from speechdlm_ext.metrics.turn_taking import TurnTakingOptions
    from speechdlm_ext.report.evaluation import PageOptions

    page = PageOptions(embed_megabytes=options.embed_megabytes, jobs=max(1, options.jobs))
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
            prompts=prompts,
            vad=options.vad,
            rttm=options.rttm,
            silence_units=options.silence_units,
            units=options.units,
            reference_units=options.reference_units,
            frame_rate=options.frame_rate,
            asr=RecogniserOptions(options.asr, options.asr_seconds),
            checkpoint=options.checkpoint,
            data=options.data,
            full_duplex=options.full_duplex_bench,
            jobs=max(1, options.jobs),
            turn_taking=TurnTakingOptions(
                options.ipu_silence, options.backchannel_longest, options.interruption_overlap
            ),
            bootstrap=BootstrapOptions(options.resamples, seed=options.seed),
        ),
        options.out,
        progress=lambda items, total: bar(items, "measuring", total),
    )
    for line in evaluation.result["left_out"]:
        text = f"left out: {line['corpus']} {line['dialogue']}: {line['reason']}"
        print(text.encode("utf-8", "replace").decode("utf-8"))
    page = replace(page, progress=lambda items, total: bar(items, "writing the page", total))
    for path in write_evaluation(evaluation, options.out, page):
        print(path)


if __name__ == "__main__":
    run_command(main)
