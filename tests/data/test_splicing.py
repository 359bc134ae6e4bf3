"""Audio in place of placeholders: the same as row by row, and what cannot be placed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.data.splicing import IGNORED, splice
from speechdlm_ext.errors import InputError

TAG, PAD = 9, 0
ROWS = st.lists(
    st.lists(st.sampled_from([PAD, 1, 2, 3, TAG]), min_size=1, max_size=6).map(lambda row: [1, *row]), min_size=1,
    max_size=4,
)  # fmt: skip


@given(ROWS, st.data())
@settings(max_examples=100, deadline=None)
def test_every_row_is_its_tokens_with_its_audio(rows, data):
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    count = int(ids.eq(TAG).sum())
    frames = data.draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    mask = torch.tensor(data.draw(st.lists(st.lists(st.booleans(), min_size=width, max_size=width),
                                           min_size=len(rows), max_size=len(rows))))  # fmt: skip
    found = splice(ids, torch.tensor(frames, dtype=torch.long) if count else None, mask, TAG, PAD)
    longest = max(frames, default=0)
    assert found["width"] == longest
    # The table as labels: a token's place, an audio's number and frame, nothing.
    table = [("token", row, at) for row in range(len(rows)) for at in range(width)]
    table += [("audio", number, frame) for number in range(count) for frame in range(longest)] + [None]
    audio, expected, targets = 0, [], []
    for number, row in enumerate(rows):
        places, said = [], []
        for at, token in enumerate(row, width - len(row)):
            if token == TAG:
                places += [("audio", audio, frame) for frame in range(frames[audio])]
                said += [IGNORED] * frames[audio]
                audio += 1
            else:
                places.append(("token", number, at))
                said.append(token if mask[number, at] else IGNORED)
        expected.append(places)
        targets.append(said)
    length = max(map(len, expected))
    for number, (places, said) in enumerate(zip(expected, targets, strict=True)):
        empty = length - len(places)
        assert [table[at] for at in found["source"][number]] == [None] * empty + places
        assert found["mask"][number].tolist() == [False] * empty + [True] * len(places)
        assert found["target"][number].tolist() == [IGNORED] * empty + said
    trained = (found["target"][:, 1:] != IGNORED).any(0).nonzero().flatten()
    if len(trained):
        assert found["predictions"] == length - 1 - int(trained[0]) or bool((found["target"][:, 0] != IGNORED).any())


@pytest.mark.parametrize(
    ("ids", "frames", "message"),
    [
        ([[TAG, 1, TAG]], [3], "2 placeholders for 1 audios"),
        ([[1, 1]], [3], "0 placeholders for 1 audios"),
        ([[TAG, 1]], None, "1 placeholders for 0 audios"),
        ([[TAG, 1], [TAG, 1]], [3, 0], "audio 2 of 2 is empty"),
        ([[TAG, 1]], [30], "31 positions of text and audio, the language model has 20"),
    ],
)
def test_what_cannot_be_placed_is_one_line(ids, frames, message):
    with pytest.raises(InputError, match=message):
        splice(torch.tensor(ids), None if frames is None else torch.tensor(frames), None, TAG, PAD, 20)
