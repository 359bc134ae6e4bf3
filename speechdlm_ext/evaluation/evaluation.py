"""One evaluation: corpora are read, measured and compared; metrics.json and metrics.csv are written."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from speechdlm_ext.asr import RecogniserOptions, build_recogniser
from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.corpus import Corpus, add_units, read_corpus, unmatched_names
from speechdlm_ext.evaluation.eval_set import (
    EvalSet,
    Pair,
    PromptOptions,
    continuations,
    pair_dialogues,
    whole_dialogues,
)
from speechdlm_ext.evaluation.figures import (
    Resources,
    corpus_figures,
    correlation_figures,
    dialogue_figures,
    distance_figures,
    split_half_figures,
)
from speechdlm_ext.evaluation.full_duplex import timing_figures, write_layout
from speechdlm_ext.evaluation.likelihood import load_model
from speechdlm_ext.evaluation.measure import FORMAT, check_lengths, measure_corpora
from speechdlm_ext.evaluation.schema import GROUPS, VERSION, channel_name, find_figure, schema_json
from speechdlm_ext.evaluation.speech_activity import choose_detection
from speechdlm_ext.io.manifest import atomic_write
from speechdlm_ext.io.pool import available_cores
from speechdlm_ext.io.resume_log import ResumeLog
from speechdlm_ext.metrics.bootstrap import BootstrapOptions
from speechdlm_ext.metrics.events import KINDS, Events, one_conversation
from speechdlm_ext.metrics.summary import summarize
from speechdlm_ext.metrics.turn_taking import TurnTakingOptions

RESUME_LOG = "measurements.jsonl"
Progress = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate, and how.

    Attributes:
        generated, reference: corpora, as :func:`read_corpus` takes them.
        prompts: where generated dialogues continue recorded ones.
        mono_pairs: whether two mono files whose names end in numbers are one dialogue.
        vad: as :func:`choose_detection` takes it.
        rttm: files with speech, for ``vad`` rttm.
        silence_units: for ``vad`` units; found from the data where empty.
        units, reference_units: unit files that belong to corpora of audio.
        frame_rate: in Hz, of units whose file does not say.
        asr: the recogniser.
        checkpoint: of a dialogue model by which the likelihood of the units is computed.
        data: folder with the dictionaries of the checkpoint.
        full_duplex: folder in which generated dialogues are written in the layout of Full-Duplex-Bench (channel A is
            the user, B the model); its measures of timing are computed.
        num_workers: processes.
        turn_taking, bootstrap: thresholds and resampling.
    """

    generated: Path
    reference: Path | None = None
    prompts: PromptOptions | None = None
    mono_pairs: bool = False
    vad: str | None = None
    rttm: Sequence[Path] = ()
    silence_units: Sequence[int] = ()
    units: Path | None = None
    reference_units: Path | None = None
    frame_rate: float = 50.0
    asr: RecogniserOptions = field(default_factory=RecogniserOptions)
    checkpoint: Path | None = None
    data: Path | None = None
    full_duplex: Path | None = None
    num_workers: int = field(default_factory=available_cores)
    turn_taking: TurnTakingOptions = field(default_factory=TurnTakingOptions)
    bootstrap: BootstrapOptions = field(default_factory=BootstrapOptions)

    def __post_init__(self) -> None:
        options = {
            "ipu-silence": self.turn_taking.ipu_silence,
            "max-backchannel": self.turn_taking.max_backchannel,
            "interruption-overlap": self.turn_taking.interruption_overlap,
        }
        for name, value in options.items():
            if not 0 <= value < math.inf:
                raise InputError(f"--{name} {value:g}: expected 0 or more")
        if not 0 < self.frame_rate < math.inf:
            raise InputError(f"--frame-rate {self.frame_rate:g}: expected more than 0")
        if self.bootstrap.seed < 0 or self.bootstrap.resamples < 1:
            found = f"--resamples {self.bootstrap.resamples}, --seed {self.bootstrap.seed}"
            raise InputError(f"{found}: expected 1 or more, and 0 or more")


@dataclass
class Evaluation:
    """``result`` is the content of metrics.json; ``sets`` what it was computed from, by corpus."""

    result: dict[str, Any]
    sets: dict[str, EvalSet]


def evaluate(
    options: EvaluationOptions, out: str | os.PathLike[str], progress: Progress = lambda items, total: items
) -> Evaluation:
    """Measure the corpora, and compute all figures.

    Args:
        options: what and how.
        out: folder for the measurements, which are kept from run to run.
        progress: wraps the measurements still to make; its second argument is their number.

    Raises:
        InputError: a corpus cannot be read or has nothing that can be measured, or options do not go together.
    """
    if options.prompts and options.reference is None:
        raise InputError("--prompts needs the dialogues that the prompts are from: pass --reference")
    corpora = _read_corpora(options)
    recogniser = build_recogniser(options.asr) if options.asr.spec else None  # raises at once what is missing
    detection = choose_detection(options.vad, corpora, options.rttm, options.silence_units)
    detector = json.loads(json.dumps(asdict(detection.detector)))  # as the log has it, lists for tuples
    made_by = {"format": FORMAT, "detection": [detection.detector.name, detector]}
    with ResumeLog(Path(out) / RESUME_LOG, made_by) as log:
        found = measure_corpora(corpora, detection, log, options.asr, options.num_workers, progress)
    for name, corpus in corpora.items():
        check_lengths(name, corpus, found[name], detection)
        if not found[name]:
            why = f"; the first, {corpus.skipped[0][0]}: {corpus.skipped[0][1]}" if corpus.skipped else ""
            raise InputError(f"{corpus.path}: no dialogue could be measured{why}")
    sets = {name: whole_dialogues(corpus.dialogues, found[name]) for name, corpus in corpora.items()}
    pairs: list[Pair] = []
    if options.prompts:
        pairs, skipped = pair_dialogues(found["generated"], found["reference"], options.prompts)
        corpora["generated"].skipped += skipped
        sets["generated"] = continuations(corpora["generated"].dialogues, found["generated"], pairs)
    for own in sets.values():
        own.find_events(options.turn_taking)
    resources = Resources(_load_model(sets, options), bool(recogniser and recogniser.supports_laughter))
    result: dict[str, Any] = {"version": VERSION}
    result |= {name: corpus_figures(own, options.bootstrap, resources) for name, own in sets.items()}
    if options.full_duplex is not None:
        corpora["generated"].skipped += write_layout(sets["generated"].dialogues, options.full_duplex)
        result["full_duplex_bench"] = timing_figures(sets["generated"], options.turn_taking)
    if "reference" in sets:
        mine, theirs = ((sets[name], result[name]) for name in ("generated", "reference"))
        result["distance"] = distance_figures(mine, theirs, options.bootstrap)
        result["split_half"] = split_half_figures(sets["reference"], options.bootstrap)
    if pairs:
        result["correlation"] = correlation_figures(
            pairs, sets["generated"], found["reference"], options.turn_taking, options.bootstrap
        )
    result["activity"] = detection.settings()
    result["settings"] = _settings(options)
    result["skipped"] = [
        {"corpus": name, "dialogue": dialogue, "reason": reason}
        for name, corpus in corpora.items()
        for dialogue, reason in corpus.skipped
    ]
    if pairs:
        used = {"generated": {pair.generated for pair in pairs}, "reference": {pair.reference for pair in pairs}}
        result["unmatched"] = {name: sorted(set(corpus.names()) - used[name]) for name, corpus in corpora.items()}
    elif "reference" in sets:
        result["unmatched"] = unmatched_names(corpora["generated"].names(), corpora["reference"].names())
    result["schema"] = schema_json()
    return Evaluation(result, sets)


def _read_corpora(options: EvaluationOptions) -> dict[str, Corpus]:
    corpora = {"generated": read_corpus(options.generated, options.frame_rate, options.mono_pairs)}
    if options.reference is not None:
        corpora["reference"] = read_corpus(options.reference, options.frame_rate, options.mono_pairs)
    for name, path in (("generated", options.units), ("reference", options.reference_units)):
        if path is not None:
            if name not in corpora:
                raise InputError(f"--reference-units {path}: pass --reference, too")
            add_units(corpora[name], path, options.frame_rate)
    return corpora


def _load_model(sets: Mapping[str, EvalSet], options: EvaluationOptions) -> Any:
    if options.checkpoint is None:
        return None
    for name, own in sets.items():
        if not any(dialogue.units for dialogue in own.dialogues):
            how = "unit files, or " + ("--units" if name == "generated" else "--reference-units") + " FILE beside audio"
            raise InputError(f"--checkpoint: the {name} corpus has no units for the model: pass {how}")
    return load_model(options.checkpoint, options.data)


def _settings(options: EvaluationOptions) -> dict[str, Any]:
    paths = ("generated", "reference", "units", "reference_units", "checkpoint")
    given = {name: getattr(options, name) for name in paths}
    prompts = asdict(options.prompts) if options.prompts else None
    if prompts and prompts["table"] is not None:
        prompts["table"] = str(prompts["table"])
    return {
        **{name: None if path is None else str(path) for name, path in given.items()},
        "prompts": prompts,
        "turn_taking": asdict(options.turn_taking),
        "bootstrap": asdict(options.bootstrap),
        "recogniser": options.asr.spec or None,
        "recogniser_seconds": options.asr.chunk_seconds if options.asr.spec else None,
    }


def write_metrics(evaluation: Evaluation, out: str | os.PathLike[str]) -> list[Path]:
    """Write metrics.json and metrics.csv to a folder, each whole or not at all.

    Returns:
        The files.
    """
    files = [Path(out) / "metrics.json", Path(out) / "metrics.csv"]
    text = json.dumps(evaluation.result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for path, content in zip(files, (text, _table(evaluation)), strict=True):
        with atomic_write(path) as file:
            file.write(content.encode("utf-8", "replace").decode("utf-8"))
    return files


def _table(evaluation: Evaluation) -> str:
    """A row for each corpus, then one for each dialogue; what is not known is an empty field."""
    activity = {"activity": evaluation.result["activity"]["method"]}
    rows: list[dict[str, Any]] = []
    for name, own in evaluation.sets.items():
        figures = evaluation.result[name]
        groups = {key: value for group in GROUPS if group in figures for key, value in _columns(group, figures[group])}
        rows.append({"corpus": name, "dialogue": "(all)", **activity, **_flat(figures, own.events), **groups})
    for name, own in evaluation.sets.items():
        for number, (dialogue, others) in enumerate(zip(own.dialogues, dialogue_figures(own), strict=True)):
            events = one_conversation(own.events, number)
            figures = _flat(summarize(events), events) | others
            rows.append({"corpus": name, "dialogue": dialogue.name, **activity, **figures})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return text.getvalue()


def _columns(group: str, figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """(keys joined by dots, value) of each figure of a group."""
    for key, value in figures.items():
        name = f"{before or group}.{key}"
        if isinstance(value, Mapping):
            yield from _columns(group, value, name)
        elif find_figure(group, key):
            yield name, value


def _flat(figures: Mapping[str, Any], events: Events) -> dict[str, Any]:
    row: dict[str, Any] = {"minutes": figures["minutes"]}
    for number, share in enumerate(figures["speech_share"] or ()):
        row[f"speech_share.{channel_name(number)}"] = share
    for kind in KINDS.values():
        row |= {f"{kind}.{key}": figures[kind][key] for key in _EVENT_COLUMNS}
    return row


_EVENT_COLUMNS = ("n", "per_minute", "seconds_per_minute", "mean", "median")
