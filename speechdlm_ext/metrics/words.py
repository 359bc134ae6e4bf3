"""Words: error rates by jiwer after a stated normalisation, and how much is said, with fillers and laughter."""

from __future__ import annotations

import re
import statistics
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from speechdlm_ext.errors import InputError, optional_import

NORMALISATION = (
    "Unicode NFKC, lower case, tags in brackets and punctuation removed but apostrophes within words, hyphens to "
    "spaces; numbers and fillers stay as they are"
)
FILLERS = frozenset(
    ["ah", "eh", "er", "erm", "ehm", "hm", "hmm", "huh", "mhm", "mm", "mmm", "oh", "uh", "uhhuh", "uhm", "um"]
)
_TAG = re.compile(r"\[[^\]]*\]|<[^>]*>|\+\+[^+]*\+\+")
_LAUGHTER = re.compile(r"laugh", re.IGNORECASE)


def normalise(text: str) -> str:
    """The text as it is compared; see ``NORMALISATION``."""
    text = _TAG.sub(" ", unicodedata.normalize("NFKC", text)).replace("’", "'").lower()
    text = "".join(c if c.isalnum() or c == "'" or unicodedata.category(c).startswith("M") else " " for c in text)
    return " ".join(word for word in (word.strip("'") for word in text.split()) if word)


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Any]:
    """Word and character error rates.

    Args:
        references: what was said in each utterance.
        hypotheses: what was recognised.

    Returns:
        ``{"words": …, "characters": …}``, each with ``corpus`` (errors over reference length, all utterances
        together), ``median`` (over utterances with a reference; as the DP-SLM figures give it), ``insertions``,
        ``deletions``, ``substitutions``, ``hits`` and ``reference`` (numbers); ``utterances``; ``normalisation``;
        ``reason`` (None, or why rates are None). Rates are shares: 1 is 100 %.

    Raises:
        InputError: jiwer is not installed, or there are not equally many of both.
    """
    with optional_import("jiwer is not installed", "eval"):
        import jiwer
    if len(references) != len(hypotheses):
        raise InputError(f"{len(references)} references and {len(hypotheses)} hypotheses: each needs the other")
    pairs = [(normalise(r), normalise(h)) for r, h in zip(references, hypotheses, strict=True)]
    rates = {
        "words": _rates(pairs, jiwer.process_words, "wer", lambda text: len(text.split())),
        "characters": _rates(pairs, jiwer.process_characters, "cer", len),
    }
    known = rates["words"]["reference"] > 0
    note = None if known else "the references have no words"
    return {**rates, "utterances": len(pairs), "normalisation": NORMALISATION, "reason": note}


class ErrorCounts(NamedTuple):
    """Edits of one text or of several together, which add up over batches; divide by ``words`` or ``characters``."""

    word_errors: int
    words: int
    character_errors: int
    characters: int


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Edits from a hypothesis to a reference, both as they are (no normalisation), split at white space."""
    import editdistance

    said, found = reference.split(), hypothesis.split()
    letters, guessed = " ".join(said), " ".join(found)
    return ErrorCounts(editdistance.eval(said, found), len(said), editdistance.eval(letters, guessed), len(letters))


def _rates(pairs: Sequence[tuple[str, str]], process: Any, rate: str, length: Any) -> dict[str, Any]:
    worded = [pair for pair in pairs if pair[0]]
    # What is understood where nothing was said is inserted; jiwer itself refuses empty references.
    counts = {"insertions": sum(length(h) for r, h in pairs if not r), "deletions": 0, "substitutions": 0, "hits": 0}
    if not worded:
        return {"corpus": None, "median": None, **counts, "reference": 0}
    whole = process([r for r, _ in worded], [h for _, h in worded])
    for name in counts:
        counts[name] += getattr(whole, name)
    total = counts["deletions"] + counts["substitutions"] + counts["hits"]
    errors = counts["insertions"] + counts["deletions"] + counts["substitutions"]
    each = [getattr(process(r, h), rate) for r, h in worded]
    return {"corpus": errors / total, "median": statistics.median(each), **counts, "reference": total}


def talk_figures(
    texts: Sequence[str], minutes: float, speech_minutes: float, supports_laughter: bool = False
) -> dict[str, Any]:
    """How much is said.

    Args:
        texts: what was recognised, tags included.
        minutes: observed, of all channels together.
        speech_minutes: of these, with speech.
        supports_laughter: whether the recogniser has a tag for laughter, so that none means that nobody laughed.

    Returns:
        ``words``, ``words_per_minute`` (observed), ``words_per_minute_of_speech``, ``filler_share`` (of the words),
        ``laughter_per_minute`` (observed), ``reason`` (None, or why figures are None).
    """
    words = [word for text in texts for word in normalise(text).split()]
    laughs = sum(bool(_LAUGHTER.search(tag)) for text in texts for tag in _TAG.findall(text))
    known, supports_laughter = minutes > 0 and speech_minutes > 0, supports_laughter or laughs > 0
    reasons = []
    if not known:
        reasons.append("no time was observed" if not minutes else "no speech was found")
    elif not words:
        reasons.append("no words were recognised")
    if not supports_laughter:
        reasons.append("the recogniser has no tag for laughter")
    return {
        "words": len(words),
        "words_per_minute": len(words) / minutes if known else None,
        "words_per_minute_of_speech": len(words) / speech_minutes if known else None,
        "filler_share": sum(word in FILLERS for word in words) / len(words) if words else None,
        "laughter_per_minute": laughs / minutes if known and supports_laughter else None,
        "reason": "; ".join(reasons) or None,
    }
