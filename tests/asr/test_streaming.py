"""Sound in chunks beside the whole recording."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from speechdlm_ext.asr.ctc_decoding import greedy
from speechdlm_ext.asr.streaming import GrowingText, TextStream, WindowedScores
from speechdlm_ext.asr.text_tokenizer import CharacterTokenizer, PieceTokenizer, TextTokenizer, train_pieces

STEP, REACH = 4, 3  # samples of a frame; frames that a convolution reaches to both sides


@pytest.fixture(scope="module")
def model() -> tuple[torch.nn.Conv1d, torch.nn.Conv1d]:
    torch.manual_seed(0)
    return torch.nn.Conv1d(1, 8, STEP, STEP), torch.nn.Conv1d(8, 5, 2 * REACH + 1, padding=REACH)


@pytest.mark.parametrize("chunk", [1, 7, 10])
@pytest.mark.parametrize("pieces", [1, 13, 400])
def test_windows_with_enough_context_give_what_the_whole_recording_gives(
    model: tuple[torch.nn.Conv1d, torch.nn.Conv1d], chunk: int, pieces: int
) -> None:
    def scores(wave: torch.Tensor) -> torch.Tensor:
        return model[1](model[0](wave[None, None]))[0].T

    wave = torch.randn(STEP * 83 + 1)
    with torch.no_grad():
        whole = scores(wave)
        stream = WindowedScores(scores, STEP, chunk, REACH, REACH)
        for _ in range(2):  # the second recording is not disturbed by the first
            found = [each for part in wave.split(-(-len(wave) // pieces)) for each in stream.feed(part)]
            assert all(len(each) == chunk for each in found)
            assert len(wave) // STEP - chunk - REACH < sum(map(len, found))  # no more is held back than it must
            torch.testing.assert_close(torch.cat([*found, *stream.finish()]), whole, atol=1e-6, rtol=0)


def test_too_little_context_shows() -> None:
    whole = torch.cumsum(torch.ones(40), 0)[:, None]
    stream = WindowedScores(lambda wave: torch.cumsum(wave, 0)[:, None], 1, 10, 5, 0)
    found = torch.cat(stream.feed(torch.ones(40)))
    assert (found - whole).abs().max() == 25  # what a window does not see is missing


def test_labels_across_borders_are_given_once() -> None:
    torch.manual_seed(1)
    scores = torch.randn(60, 3).repeat_interleave(2, 0)
    expected = greedy(scores[None], [120])[0].symbols
    for size in (1, 3, 50):
        text = GrowingText()
        assert tuple(label for part in scores.split(size) for label in text.feed(part)) == expected


class _Counting(torch.nn.Module):
    """Frames that are the samples themselves, as scores of symbols; a network's sizes."""

    frame_rate = 1.0
    preprocessor = SimpleNamespace(featurizer=SimpleNamespace(hop=1))
    encoder = SimpleNamespace(stride=1)

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.symbols, self.weight = symbols, torch.nn.Parameter(torch.zeros(1))

    def forward(self, wave: torch.Tensor, lengths: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(scores=torch.nn.functional.one_hot(wave.long(), self.symbols + 1).float())

    def output_frames(self, lengths: torch.Tensor) -> torch.Tensor:
        return lengths


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_text_of_a_stream_is_that_of_all_symbols_and_a_step_joins_no_more_than_it_did_at_first(kind: str) -> None:
    lines = ["to be or not to be", "that is the question", "whether it is nobler in the mind to suffer"]
    tokenizer: TextTokenizer = CharacterTokenizer(sorted(set("".join(lines).replace(" ", "|"))))
    if kind == "bpe":
        tokenizer = PieceTokenizer(train_pieces(lines, "bpe", 40, bos_id=-1, eos_id=-1))
    joined: list[int] = []

    class Watched:
        def join(self, symbols: Iterable[str]) -> str:
            joined.append(len(list(symbols)))
            return tokenizer.join(symbols)

    symbols, torch_rng = tokenizer.symbols, torch.Generator().manual_seed(4)
    labels = torch.randint(0, len(symbols), (1200,), generator=torch_rng)
    between = symbols.index("|" if kind == "char" else "▁")
    labels[200:240] = labels[:9] = between  # separators alone, at the beginning, too
    blank = torch.full_like(labels, len(symbols))
    model: Any = SimpleNamespace(network=_Counting(len(symbols)), tokenizer=Watched(), symbols=symbols)
    stream = TextStream(model, 4, 2, 2)
    given = [stream.step(part) for part in torch.stack([labels, blank], 1).flatten().float().split(10)]
    grown = stream.text
    given.append(stream.finish())
    assert "".join(given) == tokenizer.join([symbols[label] for label in labels.tolist()])
    assert "".join(given).startswith(grown) and len(grown) > len("".join(given)) - 40 and stream.text == ""
    assert max(joined) < 40
