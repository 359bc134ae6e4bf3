"""Sound in chunks beside the whole recording."""

from __future__ import annotations

import pytest
import torch

from speechdlm_ext.asr.ctc_decoding import greedy
from speechdlm_ext.asr.streaming import GrowingText, WindowedScores

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
