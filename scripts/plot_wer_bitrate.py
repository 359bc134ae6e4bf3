"""Word error rate of resynthesized units against their bitrate, for pairs of K and λ: DP-SLM's figure."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from speechdlm_ext.asr import USAGE
from speechdlm_ext.commands.presets import PRESETS
from speechdlm_ext.commands.units import add_encoder_options, add_worker_option, load_pipeline
from speechdlm_ext.commands.vocoder import add_vocoder_options, vocoder_from
from speechdlm_ext.errors import InputError, run_command
from speechdlm_ext.io.sharding import add_shard_option, find_shard
from speechdlm_ext.units.published_pairs import PUBLISHED

_PATTERNS = ("codebook", "acoustic", "codec_checkpoint", "vocoder_checkpoint", "encoder_checkpoint")


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Each pair has a folder OUTPUT/kK-lλ with units, sound, recognised text and figures.json; what is there "
        "from the same settings is kept. As a SLURM array: --shard slurm does its share of the pairs; afterwards the "
        "same command without --shard draws. {k} and {l} in the names of files are K and λ.",
    )
    parser.add_argument("manifest", type=Path, help='with "text" of each recording; "words" gives same-different')
    parser.add_argument("output", type=Path, help="folder")
    parser.add_argument("--pairs", nargs="+", default=list(PUBLISHED), help="kK-lλ (default: the 24 published ones)")
    parser.add_argument("--asr", required=True, metavar="KIND:MODEL", help=f"recogniser: {USAGE}")
    parser.add_argument("--codebook", metavar="FILE", help="exp/k{k}.safetensors (default: the published ones)")
    parser.add_argument(
        "--num-neighbors", type=int, metavar="N", help="nearest codes of each frame (default: 5 %% of K; 0: all)"
    )
    parser.add_argument("--batch-seconds", type=float, help="encoded together (default: 0 on a CPU, 480 on a GPU)")
    add_encoder_options(parser)
    add_vocoder_options(parser, device=False)
    parser.add_argument(
        "--predict-durations", action="store_true", help="let the vocoder say how long units last, as published"
    )
    parser.add_argument("--figure", type=Path, help="to write (default: OUTPUT/wer_bitrate.png)")
    parser.add_argument("--corpus", action="store_true", help="draw the error rate of the corpus, not the median")
    parser.add_argument("--no-published", action="store_true", help="draw without the published points")
    parser.add_argument("--abx", metavar="ITEM_FILE", help="ABX error of the units by fastabx (extra [abx])")
    add_worker_option(parser)
    add_shard_option(parser)
    return parser


def main() -> None:
    """Run the command."""
    options = get_parser().parse_args()
    from speechdlm_ext.evaluation.wer_bitrate import Pair, check_texts, draw, require_fastabx, write_table
    from speechdlm_ext.io.recordings import read_manifest

    pairs = [Pair.of(name) for name in options.pairs]
    shard = find_shard(options.shard)
    rows = read_manifest(options.manifest)
    check_texts(rows, options.manifest)
    if options.abx:
        require_fastabx()
    figures = []
    for pair in pairs if shard is None else shard.take(pairs):
        found = measure(pair, rows, options)
        figures.append(found)
        print(
            f"{pair.name}: {found['bitrate']:.0f} bit/s, WER {found['wer']:.1%} (median {found['wer_median']:.1%})",
            flush=True,
        )
    if shard is None:
        write_table(options.output / "wer_bitrate.csv", figures)
        figure = options.figure or options.output / "wer_bitrate.png"
        draw(figure, figures, not options.no_published, options.corpus)
        print(f"{options.output / 'wer_bitrate.csv'}, {figure}")


def of_pair(options: argparse.Namespace, k: int, penalty: float) -> argparse.Namespace:
    """The options with the names of this pair's files; what is not given is as published."""
    own = argparse.Namespace(**vars(options), k=k, lmbda=penalty)
    if own.codebook is None:
        for name, value in PRESETS["dpslm"].defaults(own).items():
            if getattr(own, name, None) in (None, False) or name in ("vocoder", "num_neighbors"):
                setattr(own, name, value)
    else:
        own.duration_penalty = f"{penalty:g}"
        own.num_neighbors = {None: max(1, k // 20), 0: None}.get(options.num_neighbors, options.num_neighbors)
    for name in _PATTERNS:
        if getattr(own, name, None):
            setattr(own, name, getattr(own, name).replace("{k}", str(k)).replace("{l}", f"{penalty:g}"))
    return own


def measure(pair: Any, rows: Sequence[Any], options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one pair, from its folder or made now."""
    from tqdm import tqdm

    from speechdlm_ext.asr import RecogniserOptions
    from speechdlm_ext.asr.manifest_text import TextOptions, transcribe_manifest
    from speechdlm_ext.evaluation.wer_bitrate import abx_error, keep_figures, kept_figures, word_segments
    from speechdlm_ext.io.manifest import read_jsonl, write_jsonl
    from speechdlm_ext.io.progress import follow
    from speechdlm_ext.io.recordings import recording_stamp
    from speechdlm_ext.metrics.same_different import same_different
    from speechdlm_ext.metrics.units import unit_figures
    from speechdlm_ext.metrics.words import error_rates
    from speechdlm_ext.units.encoding import encode_recordings
    from speechdlm_ext.units.files import parse_units
    from speechdlm_ext.vocoders.resynthesize import resynthesize

    own = of_pair(options, *pair)
    folder = options.output / pair.name
    chosen = {
        name: str(value) for name, value in vars(own).items() if name not in ("pairs", "shard", "figure", "output")
    }
    settings = {"options": chosen, "recordings": [[row["id"], row["text"], recording_stamp(row)] for row in rows]}
    kept = kept_figures(folder / "figures.json", settings)
    if kept is not None:
        return kept
    folder.mkdir(parents=True, exist_ok=True)

    def progress(what: str) -> Any:
        return lambda items, seconds: follow(items, seconds, f"{pair.name}: {what}", tqdm.write)

    pipeline = load_pipeline(own)
    if pipeline.codebook.num_units != pair.k:
        raise InputError(f"{own.codebook} has {pipeline.codebook.num_units} units, {pair.name} names {pair.k}")
    encoded = encode_recordings(
        rows, pipeline.codebook, folder / "units.jsonl", True, progress("encoding"), tqdm.write,
        encoder=pipeline.encoder, quantizer=pipeline.quantizer, batch_seconds=own.batch_seconds,
        workers=own.num_workers, settings=pipeline.settings,
    )  # fmt: skip
    units = {row["audio"]: parse_units(row["unitA"]) for row in encoded}
    vocoder = vocoder_from(own, pipeline.codebook, lambda: pipeline)
    made = resynthesize(
        rows, "sound", pipeline, vocoder, folder, None, True, own.predict_durations,
        batch_seconds=own.batch_seconds, workers=own.num_workers, progress=progress("resynthesis"), say=tqdm.write,
    )  # fmt: skip
    there = [row for row in made.rows if row["id"] in units]
    write_jsonl(
        folder / "sound.jsonl",
        [{"id": row["id"], "audio_filepath": str(made.files(row)[0].resolve())} for row in there],
    )
    recogniser = RecogniserOptions(own.asr, device=own.device)
    transcribe_manifest(
        folder / "sound.jsonl", folder / "text.jsonl", TextOptions(recogniser, workers=own.num_workers), None, True,
        progress("recognition"), tqdm.write,
    )  # fmt: skip
    texts = {row["id"]: row.get("text", "") for row in read_jsonl(folder / "text.jsonl")}
    rates = error_rates([row["text"] for row in there], [texts.get(row["id"], "") for row in there])
    ours: dict[str, Any] = unit_figures([[units[row["id"]]] for row in there], pipeline.codebook.frame_rate)["all"]
    figures = {
        "k": pair.k,
        "lambda": pair.penalty,
        "bitrate": ours["bitrate"],
        "unit_rate": ours["unit_rate"],
        "wer_median": rates["words"]["median"],
        "wer": rates["words"]["corpus"],
        "cer_median": rates["characters"]["median"],
        "cer": rates["characters"]["corpus"],
        **same_different(*word_segments(there, units, pipeline.codebook.frame_rate)),
        "abx": abx_error(own.abx, folder / "abx", units, pipeline.codebook.frame_rate) if own.abx else None,
        "utterances": len(there),
        "seconds": ours["seconds"],
    }
    keep_figures(folder / "figures.json", settings, figures)
    return figures


if __name__ == "__main__":
    run_command(main)
