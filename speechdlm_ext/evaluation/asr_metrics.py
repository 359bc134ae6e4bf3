"""What is said in a corpus: how much, and how much of it was understood where the manifest has the text."""

from __future__ import annotations

from typing import Any

from speechdlm_ext.evaluation.eval_set import Side
from speechdlm_ext.metrics.intervals import crop_intervals, total_seconds
from speechdlm_ext.metrics.words import error_rates, talk_figures


def word_figures(side: Side, hears_laughter: bool = False) -> dict[str, Any]:
    """Figures of :func:`talk_figures`, and ``error_rates`` where rows have ``text``.

    Args:
        side: with words in its measurements; dialogues without any are passed over.
        hears_laughter: whether the recogniser has a tag for it.
    """
    texts, minutes, speech = [], 0.0, 0.0
    references: list[str] = []
    hypotheses: list[str] = []
    passed_over: dict[str, int] = {}
    for dialogue, measurement, (start, seconds) in zip(side.dialogues, side.measurements, side.windows, strict=True):
        if not measurement.words:
            continue
        heard = [
            [part["text"] for part in channel if start <= (part["start"] + part["end"]) / 2 < start + seconds]
            for channel in measurement.words
        ]
        texts += [text for channel in heard for text in channel]
        minutes += seconds * len(measurement.words) / 60
        speech += sum(total_seconds(crop_intervals(c, start, start + seconds)) for c in measurement.activity) / 60
        whole = start == 0 and seconds >= measurement.duration
        said, why = _what_was_said(dialogue.row.get("text"), len(heard), whole)
        if why:
            passed_over[why] = passed_over.get(why, 0) + 1
        references += said
        by_channel = [" ".join(channel) for channel in heard]
        hypotheses += by_channel if len(said) > 1 else [" ".join(by_channel)] * len(said)
    figures = talk_figures(texts, minutes, speech, hears_laughter)
    if references or passed_over:
        rates = error_rates(references, hypotheses)
        reasons = [f"{count} passed over: {why}" for why, count in passed_over.items()]
        figures["error_rates"] = {**rates, "reason": "; ".join(filter(None, [rates["reason"], *reasons])) or None}
    return figures


def _what_was_said(text: Any, channels: int, whole: bool) -> tuple[list[str], str]:
    """The texts to compare with, one of all channels or one for each; and why there are none, where there should be."""
    if text is None:
        return [], ""
    if not whole:
        return [], "the text is of the whole dialogue, of which a part is judged"
    if isinstance(text, str):
        return [text], ""
    if isinstance(text, list) and len(text) == channels and all(isinstance(part, str) for part in text):
        return text, ""
    return [], f"text is neither a string nor a list of {channels}, one for each channel"
