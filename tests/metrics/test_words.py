"""Words: normalisation, error rates by hand, how much is said."""

from __future__ import annotations

import json

import pytest

from speechdlm_ext.errors import InputError
from speechdlm_ext.metrics.words import count_errors, error_rates, normalise, talk_figures

pytest.importorskip("jiwer")


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("It’s NEVER been—surpassed, has it?", "it's never been surpassed has it"),
        ("uh-huh [laughter] <unk> ++noise++ 'tis  'quoted'", "uh huh tis quoted"),
        ("ﬁne Ünïted 3.5", "fine ünïted 3 5"),
        ("…!?", ""),
    ),
)
def test_normalisation(text: str, expected: str) -> None:
    assert normalise(text) == expected == normalise(expected)


def test_error_rates_by_hand() -> None:
    rates = error_rates(["a b c", "D, e.", "f", ""], ["a x c d", "", "f", "g h"])
    words = rates["words"]
    assert (words["substitutions"], words["insertions"], words["deletions"], words["hits"]) == (1, 3, 2, 3)
    assert words["corpus"] == 1.0 and words["median"] == pytest.approx(2 / 3)  # of 2/3, 1 and 0
    assert words["reference"] == 6 and rates["utterances"] == 4 and rates["reason"] is None
    assert rates["characters"]["deletions"] == 3 and "lower case" in rates["normalisation"]
    nothing = error_rates([""], ["so"])
    assert nothing["words"]["corpus"] is None and nothing["words"]["insertions"] == 1 and nothing["reason"]
    assert error_rates([], [])["words"]["median"] is None
    with pytest.raises(InputError, match="2 references and 1"):
        error_rates(["a", "b"], ["a"])


def test_talk() -> None:
    figures = talk_figures(["Um well [laughter] yes", "mhm"], minutes=2.0, speech_minutes=0.5)
    assert figures["words"] == 4 and figures["words_per_minute"] == 2 and figures["words_per_minute_of_speech"] == 8
    assert figures["filler_share"] == 0.5 and figures["laughter_per_minute"] == 0.5 and figures["reason"] is None
    serious = talk_figures(["Well"], 1.0, 0.5)
    assert serious["laughter_per_minute"] is None and serious["reason"] == "the recogniser has no tag for laughter"
    assert talk_figures(["Well"], 1.0, 0.5, supports_laughter=True)["laughter_per_minute"] == 0
    silent = talk_figures([], 1.0, 0.0, supports_laughter=True)
    assert silent["reason"] == "no speech was found" and silent["words"] == 0
    assert {value for key, value in silent.items() if key not in ("reason", "words")} == {None}
    mumbled = talk_figures([], 1.0, 0.5, supports_laughter=True)
    assert mumbled["words_per_minute"] == 0 and mumbled["filler_share"] is None
    assert mumbled["reason"] == "no words were recognised"
    json.dumps([figures, silent, talk_figures([], 0, 0)], allow_nan=False)


def test_counts_of_errors_add_up_to_jiwers_rates() -> None:
    pairs = [("one two three", "one too  three four"), ("five", ""), ("", "six"), ("seven eight", "seven eight")]
    counts = [sum(part) for part in zip(*(count_errors(*pair) for pair in pairs), strict=True)]
    rates = error_rates(*map(list, zip(*pairs, strict=True)))
    for (errors, length), kind in zip((counts[:2], counts[2:]), ("words", "characters"), strict=True):
        assert errors / length == rates[kind]["corpus"]
