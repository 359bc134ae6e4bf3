"""Decoding of CTC beside sums over all alignments, and beside NeMo's texts and scores."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from speechdlm_ext.asr.ctc_decoding import BeamSearch, Hypothesis, greedy, timed_words, unigrams
from speechdlm_ext.errors import InputError

SYMBOLS = ["a", "b", "|"]
BLANK = 3

ARPA = """\\data\\
ngram 1=5
ngram 2=4

\\1-grams:
-1.0\t<unk>
-99\t<s>\t0
-1.0\t</s>
-0.6\tab\t0
-0.6\tba\t0

\\2-grams:
-0.3\t<s> ab
-2.0\t<s> ba
-0.1\tab ba
-3.0\tab ab

\\end\\
"""


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(path) if label != BLANK)


def probabilities(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Of every text, summed over all of its alignments."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(4), repeat=len(log_probs)):
        value = math.exp(sum(float(log_probs[frame, label]) for frame, label in enumerate(path)))
        found[collapsed(path)] = found.get(collapsed(path), 0.0) + value
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_beam_finds_the_most_probable_text(seed: int) -> None:
    """Summed over alignments: the best single path (greedy) is another one in some of these."""
    torch.manual_seed(seed)
    log_probs = torch.randn(6, 4).log_softmax(-1)
    expected = sorted(probabilities(log_probs).items(), key=lambda item: -item[1])[:5]
    padded = torch.cat([log_probs, torch.zeros(3, 4)])
    found = BeamSearch(["a", "b", "c"], BLANK, beam_size=2000)(padded[None], [6], best=5)[0]
    assert [each.symbols for each in found] == [text for text, _ in expected]
    assert [each.score for each in found] == pytest.approx([math.log(value) for _, value in expected], abs=1e-4)


def test_a_language_model_decides_between_words(tmp_path: Path) -> None:
    """The sound says "ba" or "ab" at equal odds; the model prefers "ab ba"."""
    (tmp_path / "lm.arpa").write_text(ARPA)
    assert unigrams(tmp_path / "lm.arpa") == ["ab", "ba"]
    frames = [[0.49, 0.51, 0, 0], [0.51, 0.49, 0, 0], [0, 0, 0.9, 0.1], [0.51, 0.49, 0, 0], [0.49, 0.51, 0, 0]]
    log_probs = (torch.tensor(frames) + 1e-3).log().log_softmax(-1)[None]
    lengths = torch.tensor([5])
    assert greedy(log_probs, lengths, BLANK)[0].symbols == (1, 0, 2, 0, 1)
    without = BeamSearch(SYMBOLS, BLANK, words=["ab", "ba"])(log_probs, lengths)[0][0]
    assert without.symbols == (1, 0, 2, 0, 1)
    search = BeamSearch(SYMBOLS, BLANK, tmp_path / "lm.arpa")
    best, second = search(log_probs, lengths, best=2)[0]
    assert best.symbols == (0, 1, 2, 1, 0)
    assert (best.starts, best.ends) == ((0, 1, 2, 3, 4), (1, 2, 3, 4, 5))
    assert best.score > second.score
    assert BeamSearch(SYMBOLS, BLANK, tmp_path / "lm.arpa", lm_weight=0)(log_probs, lengths)[0][0] == without


def test_pieces_are_words_without_a_boundary() -> None:
    symbols = ["<unk>", "▁one", "▁two", "s"]
    log_probs = torch.full((4, 5), 0.01)
    for frame, label in enumerate([1, 4, 2, 3]):
        log_probs[frame, label] = 1.0
    search = BeamSearch(symbols, 4, words=["one", "twos"], split=lambda w: ["▁one"] if w == "one" else ["▁two", "s"])
    found = search(log_probs.log().log_softmax(-1)[None], [4])[0][0]
    assert found.symbols == (1, 2, 3)
    words = timed_words([symbols[label] for label in found.symbols], found.starts, found.ends, 0.02)
    assert words == [("one", 0.0, 0.02), ("twos", 0.04, 0.08)]


def test_what_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.arpa: no such file"):
        BeamSearch(SYMBOLS, BLANK, tmp_path / "none.arpa")
    (tmp_path / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code\xff\xfe")
    with pytest.raises(InputError, match=r"lm\.bin: not an ARPA file"):
        BeamSearch(SYMBOLS, BLANK, tmp_path / "lm.bin")
    with pytest.raises(InputError, match="no word can be spelled"):
        BeamSearch(SYMBOLS, BLANK, words=["xyz"])


def test_greedy_equals_nemos(data: Path) -> None:
    folder = data / "reference" / "nemo"
    reference, texts = np.load(folder / "ctc_char.npz"), json.loads((folder / "ctc_char.json").read_text())
    log_probs = torch.from_numpy(reference["log_probs"])[None]
    padded = torch.cat([log_probs, torch.randn(1, 9, log_probs.shape[-1])], dim=1)
    (found,) = greedy(padded, [log_probs.shape[1]])
    labels = [" ", *map(chr, range(ord("a"), ord("z") + 1)), "'"]
    assert "".join(labels[label] for label in found.symbols) == texts["text"]
    assert found.score == pytest.approx(texts["score"], rel=1e-5)


def test_a_row_in_a_batch_is_the_row_alone_and_nothing_gives_nothing() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(3, 20, 4).log_softmax(-1)
    together = greedy(log_probs, [20, 7, 0], BLANK)
    assert together[1] == greedy(log_probs[1:2, :7], [7], BLANK)[0]
    assert together[2] == Hypothesis((), (), (), 0.0)
    assert greedy(log_probs[:1, :0], [0], BLANK)[0].symbols == ()


def test_times_of_words() -> None:
    words = timed_words(["|", "a", "", "b", "|", "|", "b"], [0, 2, 4, 5, 6, 7, 8], [1, 4, 5, 6, 7, 8, 10], 0.5)
    assert words == [("ab", 1.0, 3.0), ("b", 4.0, 5.0)]
