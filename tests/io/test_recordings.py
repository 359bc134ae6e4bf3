"""The recordings of a manifest: paths, ids, and channels in one file or in several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.io.manifest import write_jsonl
from speechdlm_ext.io.recordings import read_manifest, recording_blocks, recording_size, recording_stamp


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
        ('\n{"audio_filepath": "x", "id": 3}\n', "line 2: the id 3 cannot be the name of a file"),
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
        ("offset", ['"1"', "-0.1", "NaN", "Infinity", "true", "[]"]),
    ],
)
def test_sizes_that_cannot_be(tmp_path: Path, field: str, values: list[str]) -> None:
    path = tmp_path / "manifest.jsonl"
    for value in values:
        path.write_text(f'{{"audio_filepath": "x"}}\n\n{{"audio_filepath": "y", "{field}": {value}}}\n')
        with pytest.raises(InputError, match=f'manifest.jsonl, line 3: "{field}": .*expected a .* from . up$'):
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


def sound_of(row: dict, rate: int = 16000) -> torch.Tensor:
    return torch.cat(list(recording_blocks(row, rate)), dim=1)


def test_an_offset_is_the_beginning_of_a_part(tmp_path: Path) -> None:
    """At both rates what is cut out of the file is what was written as a file of its own."""
    sound = noise(10, 8000)
    soundfile.write(tmp_path / "call.wav", sound, 8000, subtype="FLOAT")
    lines = ['"offset": 2.5, "duration": 3.0', '"offset": 8', '"offset": 0, "duration": 1.5', '"channel_selector": 1']
    (tmp_path / "m.jsonl").write_text("".join(f'{{"audio_filepath": "call.wav", {line}}}\n' for line in lines))
    rows = read_manifest(tmp_path / "m.jsonl")
    assert len({row["id"] for row in rows}) == 4 and len({str(recording_stamp(row)) for row in rows}) == 4
    assert [recording_size(row) for row in rows] == [(3.0, 2), (2.0, 2), (1.5, 2), (10.0, 1)]
    for row, (first, last) in zip(rows, ((20000, 44000), (64000, 80000), (0, 12000)), strict=False):
        soundfile.write(tmp_path / "part.wav", sound[first:last], 8000, subtype="FLOAT")
        for rate in (8000, 16000):
            torch.testing.assert_close(sound_of(row, rate), read_audio(tmp_path / "part.wav", rate)[0])
    with pytest.raises(InputError, match='m.jsonl, line 1: "offset": expected whole recordings'):
        read_manifest(tmp_path / "m.jsonl", excerpts=False)
    two = tmp_path / "1.wav"
    soundfile.write(two, sound[:, 1], 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "0.wav", sound[:, 0], 8000, subtype="FLOAT")
    parts = {"audio_filepath": [str(tmp_path / "0.wav"), str(two)], "offset": 2.5, "duration": 3.0}
    torch.testing.assert_close(sound_of(parts, 8000), sound_of(rows[0], 8000))


def test_channels_are_selected(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1, channels=3), 16000, subtype="FLOAT")
    row = {"audio_filepath": str(tmp_path / "a.wav")}
    whole = sound_of(row)
    expected = {0: whole[:1], 2: whole[2:], "average": whole.mean(0, keepdim=True)}
    for selector, wave in expected.items():
        torch.testing.assert_close(sound_of({**row, "channel_selector": selector}), wave)
    torch.testing.assert_close(sound_of({**row, "channel_selector": [2, 0]}), whole[[2, 0]])
    with pytest.raises(InputError, match='a.wav: "channel_selector": 3 of 3 channels.*expected 0 to 2'):
        sound_of({**row, "channel_selector": 3})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"duration": 3.0}, 'a.wav is 2.000 s long, its row says "duration": 3'),
        ({"duration": 1.0}, 'a.wav is 2.000 s long, its row says "duration": 1: .*"offset"'),
        ({"sample_rate": 8000}, 'a.wav has 16000 Hz, its row says "sample_rate": 8000'),
        ({"channels": 1}, "a.wav has 2 channels, 1 is needed"),
        ({"offset": 1.5, "duration": 1.0}, "a.wav is 2.000 s long, its row is the part from 1.5 to 2.5 s"),
        ({"offset": 2.0, "duration": None}, "a.wav has no samples from 2 s"),
    ],
)
def test_a_row_that_is_of_another_file_is_refused(tmp_path: Path, fields: dict, message: str) -> None:
    soundfile.write(tmp_path / "a.wav", noise(2), 16000)
    row = {"audio_filepath": str(tmp_path / "a.wav"), "duration": 2.04, "sample_rate": 16000, "channels": 2}
    assert sound_of(row).shape == (2, 32000)
    with pytest.raises(InputError, match=message):
        sound_of({**row, **fields})


@pytest.mark.parametrize("name", ["fe_03/000/a", "../evil", "/abs", ".hidden", "", "x" * 201])
def test_ids_that_cannot_be_file_names_are_refused_at_the_first_stage(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / "m.jsonl", [{"id": name, "audio_filepath": "a.wav"}])
    with pytest.raises(InputError, match="m.jsonl, line 1: the id .* cannot be the name of a file"):
        read_manifest(tmp_path / "m.jsonl")
