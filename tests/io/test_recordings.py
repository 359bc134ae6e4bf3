"""The recordings of a manifest: paths, ids, and channels in one file or in several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.recordings import read_manifest, recording_blocks, recording_size


def noise(seconds: float, rate: int = 16000, channels: int = 2, seed: int = 1) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "no rows"),
        ('{"id": "a"}\n', "line 1: audio_filepath is missing"),
        (
            '{"id": "a", "audio_filepath": "x"}\n{"id": "a", "audio_filepath": "y"}\n',
            "line 2: the id 'a' is that of line 1",
        ),
        ('\n\n{"id": "a"}\n', "line 3: audio_filepath is missing"),
        ('{"audio_filepath": "x"}\n\n{"audio_filepath": "x"}\n', "line 3: the recording .*x is that of line 1, too"),
        ('\n{"audio_filepath": "x", "id": 3}\n', "line 2: the id 3 must be text"),
        ('{"id": "a", "audio_filepath": "x"}\n{broken\n', "line 2"),
    ],
)
def test_manifests_that_are_wrong(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=expected):
        read_manifest(path)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("channels", ['"one"', "0", "-1", "1.5", "true", "[1]"]),
        ("sample_rate", ['"abc"', "0", "-16000", "1.5", "true"]),
        ("duration", ['"1"', "-0.1", "NaN", "Infinity", "true", "{}"]),
    ],
)
def test_sizes_that_cannot_be(tmp_path: Path, field: str, values: list[str]) -> None:
    path = tmp_path / "manifest.jsonl"
    for value in values:
        path.write_text(f'{{"audio_filepath": "x"}}\n\n{{"audio_filepath": "y", "{field}": {value}}}\n')
        with pytest.raises(InputError, match=f'manifest.jsonl, line 3: "{field}": .* from . up is wanted$'):
            read_manifest(path)
    for value in ("1", "2", "null"):
        path.write_text(f'{{"audio_filepath": "y", "{field}": {value}}}\n')
        assert len(read_manifest(path)) == 1


def test_relative_paths_are_the_manifests(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"audio_filepath": "sound/a b.wav", "speaker": "s"}\n')
    assert read_manifest(tmp_path / "manifest.jsonl") == [
        {"audio_filepath": str(tmp_path / "sound/a b.wav"), "speaker": "s", "id": "a_b"}
    ]


def test_channels_in_files_of_their_own(tmp_path: Path) -> None:
    sound = noise(3, 16000)
    soundfile.write(tmp_path / "both.wav", sound, 16000, subtype="FLOAT")
    for channel in range(2):
        soundfile.write(tmp_path / f"{channel}.wav", sound[:, channel], 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "longer.wav", noise(4, 8000)[:, 0], 8000)
    (tmp_path / "manifest.jsonl").write_text('{"id": "x", "audio_filepath": ["0.wav", "1.wav"]}\n')
    row = read_manifest(tmp_path / "manifest.jsonl")[0]
    assert row["audio_filepath"] == [str(tmp_path / "0.wav"), str(tmp_path / "1.wav")]
    for rate in (16000, 8000):
        joined = torch.cat(list(recording_blocks(row, rate)), dim=1)
        both = torch.cat(list(recording_blocks({"audio_filepath": str(tmp_path / "both.wav")}, rate)), dim=1)
        torch.testing.assert_close(joined, both, rtol=0, atol=1e-6)
    row["audio_filepath"][1] = str(tmp_path / "longer.wav")
    with pytest.raises(InputError, match=r"unequal length \(.*0.wav: 3.000 s, .*longer.wav: 4.000 s\)"):
        list(recording_blocks(row, 16000))


def test_sizes_come_from_the_row_or_the_files(tmp_path: Path) -> None:
    for channel in range(2):
        soundfile.write(tmp_path / f"{channel}.wav", noise(3, 8000)[:, 0], 8000)
    assert recording_size({"audio_filepath": "none.wav", "duration": 7.5, "channels": 2}) == (7.5, 2)
    assert recording_size({"audio_filepath": [str(tmp_path / f"{c}.wav") for c in range(2)]}) == (3.0, 2)
    with pytest.raises(InputError, match="no such file"):
        recording_size({"audio_filepath": str(tmp_path / "none.wav"), "duration": "long"})
