"""NeMo's codec beside NeMo's outputs, from its file."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from speechdlm_ext.codecs.nemo import NemoCodec
from speechdlm_ext.codecs.registry import build_codec
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.nemo import write_nemo
from speechdlm_ext.modules.hifigan_codec import Grid
from tests.helpers.codecs import nemo_config
from tests.helpers.references import reference_path

REFERENCE = reference_path("nemo/speechlm")


def test_codes_and_sound_are_those_of_nemo() -> None:
    codec = build_codec(f"nemo:{REFERENCE / 'codec.nemo'}")
    arrays = {name: torch.from_numpy(value) for name, value in np.load(REFERENCE / "codec.npz").items()}
    assert (codec.sample_rate, codec.frame_rate, codec.num_codebooks, codec.codebook_size) == (22050, 12.5, 4, 64)
    codes = codec.encode(arrays["audio"] / 32768, arrays["audio_len"])
    assert torch.equal(codes, arrays["tokens"])
    made = codec.decode(arrays["tokens"], arrays["tokens_len"])
    assert (made - arrays["decoded"]).abs().max() < 1e-5


def test_a_grid_numbers_its_points_with_the_first_axis_fastest() -> None:
    grid = Grid((4, 5, 2))
    values = grid.decode(torch.arange(40)[None])[0].T
    axes = ([-1.0, -0.5, 0.0, 0.5], [-1.0, -0.5, 0.0, 0.5, 1.0], [-1.0, 0.0])
    expected = torch.tensor([(a, b, c) for c, b, a in product(axes[2], axes[1], axes[0])])
    assert torch.equal(values, expected)
    far = torch.tensor([[-9.0, 9.0], [-9.0, 9.0], [-9.0, 9.0]])[None]
    assert grid.encode(far).tolist() == [[0, 39]]
    # What is between two points goes to the nearer one, in the middle of the range.
    assert grid.encode(torch.zeros(1, 3, 1)).tolist() == [[int(grid.encode(torch.full((1, 3, 1), 1e-3))[0, 0])]]


def test_files_are_read_strictly(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config, codec = nemo_config(), NemoCodec(nemo_config())
    state = {**codec.state_dict(), "mel_loss_fn.mel_features.0.window": torch.ones(3)}
    wave = torch.randn(1, 500)
    path = tmp_path / "a.nemo"
    write_nemo(path, config, state)
    assert torch.equal(NemoCodec.from_pretrained(path).encode(wave), codec.encode(wave))
    broken = dict(state)
    del broken["audio_decoder.post_conv.conv.bias"]
    cases = [
        (config, broken, "audio_decoder.post_conv.conv.bias is missing"),
        (config, {**state, "more": torch.ones(1)}, "more is "),
        (config, {**state, "audio_decoder.post_conv.conv.bias": torch.tensor([torch.nan])}, "post_conv"),
        ({**config, "target": "x.EncDecCTCModel"}, state, "EncDecCTCModel; expected AudioCodecModel"),
        ({**config, "samples_per_frame": 13}, state, "three equal numbers"),
        (
            {**config, "vector_quantizer": {"_target_": "x.ResidualVectorQuantizer"}},
            state,
            "GroupFiniteScalarQuantizer is",
        ),
    ]
    for settings, weights, expected in cases:
        with pytest.raises(InputError, match=expected):
            write_nemo(path, settings, weights)
            NemoCodec.from_pretrained(path)


def test_a_sound_too_short_for_its_reflections_is_one_line() -> None:
    codec = NemoCodec(nemo_config())
    wave = torch.randn(1, 4 * codec.hop)
    codes = codec.encode(wave)
    assert codes.size(2) == 4 and codec.decode(codes).shape == wave.shape
    for function, short in ((codec.encode, wave[:, : 3 * codec.hop]), (codec.decode, codes[:, :, :3])):
        with pytest.raises(InputError, match="too short"):
            function(short)
