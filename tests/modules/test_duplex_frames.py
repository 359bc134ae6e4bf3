"""Channels of duplex models in step, written out by hand."""

from __future__ import annotations

import torch

from speechdlm_ext.modules.duplex_frames import (
    IGNORED,
    ChannelIds,
    align_channels,
    stack_codes,
    unstack_codes,
    without_control_codes,
)

IDS = ChannelIds(text_bos=1, text_eos=2, text_pad=0, codes=10)


def _align(user_frames, text, codes, user_lens, code_lens):
    user = torch.arange(user_frames).view(1, -1, 1).float()
    return align_channels(
        user, torch.tensor(user_lens), torch.tensor([text]), torch.tensor([codes]), torch.tensor(code_lens), IDS
    )


def test_text_runs_one_frame_ahead_and_turns_are_marked():
    frames = _align(6, [0, 1, 7, 2, 0], [[3], [4], [5], [6], [7]], [6], [5])
    assert frames.user[0, :, 0].tolist() == [0, 1, 2, 3]
    assert frames.text[0].tolist() == [0, 1, 7, 2]
    assert frames.text_labels[0].tolist() == [1, 7, 2, 0]
    assert frames.codes[0, :, 0].tolist() == [12, 3, 10, 5]  # delay, then BOS where the text has it
    assert frames.code_labels[0, :, 0].tolist() == [3, 10, 5, 11]


def test_frames_beyond_the_shorter_side_are_no_labels():
    frames = _align(4, [0, 0, 0, 0, 0, 0], [[1]] * 6, [3], [6])
    assert frames.lengths.tolist() == [2]
    assert frames.text_labels[0].tolist() == [0, 0, IGNORED]
    assert frames.code_labels[0, :, 0].tolist() == [1, 1, IGNORED]


def test_a_short_text_channel_is_padded():
    assert _align(5, [0, 5], [[1]] * 5, [5], [5]).text_labels[0].tolist() == [5, 0, 0, 0]


def test_several_frames_of_a_codec_in_one():
    codes = torch.arange(14).view(1, 7, 2)
    stacked = stack_codes(codes, 3)
    assert stacked.tolist() == [[[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]]
    assert torch.equal(unstack_codes(stacked, 3), codes[:, :6])


def test_control_codes_become_the_first_frames():
    # The published function's example, and its other where the first frame has one.
    ids = ChannelIds(1, 2, 0, 64)
    codes = torch.tensor([[[1, 2, 3, 4], [64, 5, 65, 6], [66, 66, 7, 64]]])
    assert without_control_codes(codes, codes[:, 0], ids).tolist() == [[[1, 2, 3, 4], [1, 5, 3, 6], [1, 2, 7, 4]]]
    codes[0, 0, 0] = 66
    assert without_control_codes(codes, codes[:, 0], ids)[0, :, 0].tolist() == [2, 2, 2]
