"""One evaluation from corpora to files: metrics.json, metrics.csv and the page."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechdlm_ext.asr.recognisers import RecogniserOptions, build_recogniser
from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.corpus import Corpus, add_units, read_corpus, unmatched_names
from speechdlm_ext.evaluation.eval_set import Side, continuation_side, whole_side
from speechdlm_ext.evaluation.full_duplex import timing_figures, write_layout
from speechdlm_ext.evaluation.measure_corpus import FORMAT, check_lengths, measure_corpora
from speechdlm_ext.evaluation.metrics_csv import dialogue_figures, write_csv
from speechdlm_ext.evaluation.metrics_json import (
    MEASURES,
    VERSION,
    correlation_figures,
    distance_figures,
    side_figures,
    yardstick_figures,
)
from speechdlm_ext.evaluation.prompts import PromptOptions, pair_dialogues
from speechdlm_ext.evaluation.speech_activity import choose_detection
from speechdlm_ext.io.atomic import atomic_write
from speechdlm_ext.io.resume_log import ResumeLog
from speechdlm_ext.metrics.bootstrap import BootstrapOptions
from speechdlm_ext.metrics.turn_taking import TurnTakingOptions

if TYPE_CHECKING:
    from speechdlm_ext.report.evaluation import PageOptions

JOURNAL = "measurements.jsonl"


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate, and how.

    Attributes:
        generated, reference: corpora, as :func:`read_corpus` takes them.
        prompts: where generated dialogues continue real ones.
        vad: as :func:`choose_detection` takes it.
        rttm: files with speech, for ``vad`` rttm.
        silence_units: for ``vad`` units; found from the data where empty.
        units, reference_units: unit files that go with corpora of sound.
        frame_rate: in Hz, of units whose file does not say.
        asr: who listens for words.
        checkpoint: of a dialogue model that says how likely the units of both corpora are.
        data: folder with the dictionaries of the checkpoint.
        full_duplex: folder in which generated dialogues are written as Full-Duplex-Bench has them (channel A is the
            user, B the model); its measures of timing are computed.
        jobs: processes.
        turn_taking, bootstrap: thresholds and resampling.
    """

    generated: Path
    reference: Path | None = None
    prompts: PromptOptions | None = None
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
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    turn_taking: TurnTakingOptions = field(default_factory=TurnTakingOptions)
    bootstrap: BootstrapOptions = field(default_factory=BootstrapOptions)

    def __post_init__(self) -> None:
        for name, value in {**asdict(self.turn_taking), "frame_rate": self.frame_rate}.items():
            if not (0 < value < math.inf if name == "frame_rate" else 0 <= value < math.inf):
                least = "more than 0" if name == "frame_rate" else "0 or more"
                raise InputError(f"--{name.replace('_', '-')} {value:g}: {least} is wanted")
        if self.bootstrap.seed < 0 or self.bootstrap.resamples < 1:
            found = f"--resamples {self.bootstrap.resamples}, --seed {self.bootstrap.seed}"
            raise InputError(f"{found}: 1 or more, and 0 or more, are wanted")


@dataclass
class Evaluation:
    """``result`` is the content of metrics.json; ``sides`` what it was computed from, by corpus.

    ``speakers``: names of the channels by corpus and dialogue, where they are known.
    """

    result: dict[str, Any]
    sides: dict[str, Side]
    speakers: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)


def evaluate(
    options: EvaluationOptions,
    out: str | os.PathLike[str],
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
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
        raise InputError("--prompts: what really followed them is wanted, too: pass --reference")
    corpora = _read_corpora(options)
    listener = build_recogniser(options.asr) if options.asr.spec else None  # says at once what is missing
    detection = choose_detection(options.vad, corpora, options.rttm, options.silence_units)
    made_by = {"format": FORMAT, "detection": [detection.detector.name, asdict(detection.detector)]}
    with ResumeLog(Path(out) / JOURNAL, made_by) as journal:
        found = measure_corpora(corpora, detection, journal, options.asr, options.jobs, progress)
    for side, corpus in corpora.items():
        check_lengths(side, corpus, found[side], detection)
        if not found[side]:
            why = f"; the first, {corpus.left_out[0][0]}: {corpus.left_out[0][1]}" if corpus.left_out else ""
            raise InputError(f"{corpus.path}: no dialogue could be measured{why}")
    pairs = None
    if options.prompts:
        pairs = pair_dialogues(found["generated"], found["reference"], options.prompts)
        corpora["generated"].left_out += pairs.left_out
    sides = {side: whole_side(corpus.dialogues, found[side]) for side, corpus in corpora.items()}
    if pairs:
        sides["generated"] = continuation_side(corpora["generated"].dialogues, found["generated"], pairs.pairs)
    for own in sides.values():
        own.find_events(options.turn_taking)
    result: dict[str, Any] = {"version": VERSION}
    for name, own in sides.items():
        result[name] = side_figures(own, options.bootstrap, bool(listener and listener.hears_laughter))
    if options.checkpoint is not None:
        _add_likelihood(result, sides, options)
    if options.full_duplex is not None:
        corpora["generated"].left_out += write_layout(sides["generated"].dialogues, options.full_duplex)
        result["full_duplex_bench"] = timing_figures(sides["generated"], options.turn_taking)
    if "reference" in sides:
        mine, theirs = sides["generated"], sides["reference"]
        result["distance"] = distance_figures(mine, theirs, result["generated"], result["reference"], options.bootstrap)
        result["yardstick"] = yardstick_figures(theirs, options.bootstrap)
    if pairs:
        result["correlation"] = correlation_figures(
            pairs.pairs, sides["generated"], found["reference"], options.turn_taking, options.bootstrap
        )
    result["activity"] = detection.settings()
    result["settings"] = _settings(options)
    result["measures"] = MEASURES
    result["left_out"] = _left_out(corpora)
    if pairs:
        used = {pair.generated for pair in pairs.pairs}, {pair.reference for pair in pairs.pairs}
        rest = {side: set(corpus.names()) - names for (side, corpus), names in zip(corpora.items(), used, strict=True)}
        result["unmatched"] = {side: sorted(names) for side, names in rest.items()}
    elif "reference" in sides:
        result["unmatched"] = unmatched_names(corpora["generated"].names(), corpora["reference"].names())
    speakers = {(side, name): own.speakers for side, every in found.items() for name, own in every.items()}
    return Evaluation(result, sides, speakers)


def _read_corpora(options: EvaluationOptions) -> dict[str, Corpus]:
    corpora = {"generated": read_corpus(options.generated, options.frame_rate)}
    if options.reference is not None:
        corpora["reference"] = read_corpus(options.reference, options.frame_rate)
    for side, path in (("generated", options.units), ("reference", options.reference_units)):
        if path is not None:
            if side not in corpora:
                raise InputError(f"--reference-units {path}: pass --reference, too")
            add_units(corpora[side], path, options.frame_rate)
    return corpora


def _add_likelihood(result: dict[str, Any], sides: Mapping[str, Side], options: EvaluationOptions) -> None:
    from speechdlm_ext.evaluation.likelihood import likelihood_figures, load_model

    assert options.checkpoint is not None
    for name, side in sides.items():
        if not any(dialogue.units for dialogue in side.dialogues):
            how = "unit files, or " + ("--units" if name == "generated" else "--reference-units") + " FILE beside sound"
            raise InputError(f"--checkpoint: the {name} corpus has no units for the model to judge: pass {how}")
    model = load_model(options.checkpoint, options.data)
    for name, side in sides.items():
        result[name]["likelihood"] = likelihood_figures(model, side)


def _settings(options: EvaluationOptions) -> dict[str, Any]:
    prompts = asdict(options.prompts) if options.prompts else None
    if prompts and prompts["table"] is not None:
        prompts["table"] = str(prompts["table"])
    return {
        "generated": str(options.generated),
        "reference": str(options.reference) if options.reference else None,
        "units": str(options.units) if options.units else None,
        "reference_units": str(options.reference_units) if options.reference_units else None,
        "prompts": prompts,
        "turn_taking": asdict(options.turn_taking),
        "bootstrap": asdict(options.bootstrap),
        "recogniser": options.asr.spec or None,
        "recogniser_seconds": options.asr.longest if options.asr.spec else None,
        "checkpoint": str(options.checkpoint) if options.checkpoint else None,
    }


def _left_out(corpora: Mapping[str, Corpus]) -> list[dict[str, str]]:
    return [
        {"corpus": side, "dialogue": name, "reason": reason}
        for side, corpus in corpora.items()
        for name, reason in corpus.left_out
    ]


def write_evaluation(
    evaluation: Evaluation, out: str | os.PathLike[str], page: PageOptions | None = None
) -> list[Path]:
    """Write metrics.json, metrics.csv and index.html, each whole or not at all.

    Args:
        evaluation: what was found.
        out: folder.
        page: how much sound it takes, and the like.

    Returns:
        The files.
    """
    from speechdlm_ext.report.evaluation import Corpus as PageCorpus
    from speechdlm_ext.report.evaluation import write_page
    from speechdlm_ext.report.sound import Recording

    out = Path(out)
    files = [out / "metrics.json", out / "metrics.csv", out / "index.html"]
    text = json.dumps(evaluation.result, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_write(files[0]) as file:
        file.write(text.encode("utf-8", "replace").decode("utf-8") + "\n")
    write_csv(files[1], evaluation.sides, evaluation.result)
    corpora = []
    for name, side in evaluation.sides.items():
        recordings = [
            Recording(dialogue.files, start, lead)
            for dialogue, (start, _), lead in zip(side.dialogues, side.windows, side.leads, strict=True)
        ]
        names = [dialogue.name for dialogue in side.dialogues]
        speakers = [evaluation.speakers.get((name, dialogue.name), ()) for dialogue in side.dialogues]
        corpora.append(PageCorpus(name, names, side.events, recordings, dialogue_figures(side), speakers))
    write_page(files[2], evaluation.result, corpora, page)
    return files
