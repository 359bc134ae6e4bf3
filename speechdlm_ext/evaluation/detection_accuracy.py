"""How well speech detectors agree with the annotation of a corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.corpus import Corpus, Dialogue, dialogue_blocks
from speechdlm_ext.evaluation.speech_activity import choose_detection, order_by_channel
from speechdlm_ext.io.audio import audio_info
from speechdlm_ext.metrics.detection import DetectionErrors, detection_errors, pool_errors
from speechdlm_ext.metrics.intervals import join_intervals
from speechdlm_ext.metrics.summary import summarize
from speechdlm_ext.metrics.turn_taking import find_events_of_many
from speechdlm_ext.vad import Annotation, Detector, Speech, build_detector

COLLARS = (0.0, 0.25)  # seconds
EVENTS = ("ipu", "pause", "gap", "overlap", "turn", "backchannel", "interruption")


def measure_detectors(
    corpus: Corpus,
    specs: Sequence[str],
    annotation: str = "rttm",
    rttm: Sequence[Path] = (),
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
) -> dict[str, dict[str, Any]]:
    """Measure detectors on the recordings that are annotated.

    Several speakers of one channel count as one: there is speech where any of them speaks.

    Args:
        corpus: of audio.
        specs: detectors, as :func:`speechdlm_ext.vad.build_detector` takes them; ``rttm:FILE`` is what another program
            found.
        annotation: ``rttm``, ``field`` or ``field:NAME``.
        rttm: annotated files; by default those in or beside the corpus.
        progress: wraps the recordings; its second argument is their number.

    Returns:
        By ``annotation`` and detector: ``recordings``, ``minutes``; ``per_minute`` of each kind of event; and of
        detectors the figures of :func:`pool_errors` by collar (``"0"``, ``"0.25"``).

    Raises:
        InputError: no recording is annotated, or one cannot be read.
    """
    truth = choose_detection(annotation, {"generated": corpus}, rttm).given
    detectors = {spec: build_detector(spec) for spec in specs}
    known = [dialogue for dialogue in corpus.dialogues if dialogue.files and ("generated", dialogue.name) in truth]
    if not known:
        raise InputError(f"{corpus.path}: none of its {len(corpus.dialogues)} recordings is annotated")
    speech: dict[str, list[tuple[Speech, float]]] = {name: [] for name in ("annotation", *specs)}
    errors: dict[tuple[str, float], list[DetectionErrors]] = {(s, c): [] for s in specs for c in COLLARS}
    for dialogue in progress(known, len(known)):
        wave, rate = _read(dialogue)
        duration = wave.shape[1] / rate
        reference = _by_channel(dialogue, truth["generated", dialogue.name], len(wave))
        speech["annotation"].append((reference, duration))
        for spec, detector in detectors.items():
            found = _found(detector, dialogue, wave, rate)
            speech[spec].append((found, duration))
            for collar in COLLARS:
                pairs = zip(reference, found, strict=True)
                errors[spec, collar] += [detection_errors(one, other, duration, collar) for one, other in pairs]
    figures = {name: _rates(items) for name, items in speech.items()}
    for spec in specs:
        figures[spec]["collars"] = {f"{collar:g}": pool_errors(errors[spec, collar]) for collar in COLLARS}
    return figures


def _read(dialogue: Dialogue) -> tuple[np.ndarray, int]:
    rate = max(audio_info(file).sample_rate for file in dialogue.files)
    return np.concatenate([block.numpy() for block in dialogue_blocks(dialogue, rate)], axis=1), rate


def _found(detector: Detector, dialogue: Dialogue, wave: np.ndarray, rate: int) -> Speech:
    if detector.reads == "audio":
        return [join_intervals(channel) for channel in detector.detect(wave, rate)]
    found = detector.read(dialogue.name, dialogue.row, dialogue.units, dialogue.frame_rate)
    return _by_channel(dialogue, found or Annotation([]), len(wave))


def _by_channel(dialogue: Dialogue, given: Annotation, channels: int) -> Speech:
    """Speech of each channel; where there are more speakers than channels, everybody is on every channel."""
    speech = order_by_channel(dialogue, given).speech
    if len(speech) > channels:
        return [join_intervals(part for own in speech for part in own)] * channels
    return [*map(join_intervals, speech), *([] for _ in range(channels - len(speech)))]


def _rates(items: Sequence[tuple[Speech, float]]) -> dict[str, Any]:
    events = summarize(find_events_of_many(items))
    return {
        "recordings": events["conversations"],
        "minutes": events["minutes"],
        "per_minute": {kind: events[kind]["per_minute"] for kind in EVENTS},
    }


def detection_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures as a table in Markdown; kinds of events that nobody found are skipped."""
    kinds = [kind for kind in EVENTS if any(row["per_minute"][kind] for row in figures.values())]
    titles = ["detector", "F1", "missed", "false alarm", "DER", "DER, collar 250 ms", *(f"{k}/min" for k in kinds)]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, row in figures.items():
        cells = ["–"] * 5
        if "collars" in row:
            exact = row["collars"]["0"]
            values = [exact[key] for key in ("f1", "missed", "false_alarm", "detection_error_rate")]
            values.append(row["collars"]["0.25"]["detection_error_rate"])
            cells = ["–" if value is None else f"{100 * value:.1f} %" for value in values]
        rates = [row["per_minute"][kind] for kind in kinds]
        cells += ["–" if rate is None else f"{rate:.1f}" for rate in rates]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
