"""Manifests of many rows take no more memory than those of few; DC and equal channels are found and taken out."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechdlm_ext.encoders.base import build_encoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.manifest import NumbersOnDisk
from speechdlm_ext.io.recordings import read_manifest, recording_blocks
from speechdlm_ext.io.scan import make_manifest
from tests.helpers.sphere import conversation

PEAK = """
import resource, sys
from speechdlm_ext.io.recordings import read_manifest
from speechdlm_ext.io.sharding import Shard
rows = read_manifest(sys.argv[1])
mine = Shard(1, 3).take(rows)
assert mine[0] == rows[1] and mine[-1]["duration"] > 0 and len(mine) == sum(1 for _ in mine) == -(-(len(rows) - 1) // 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


# From the start of the work to its first result; two runs, the second of which finds what the first has done.
WORK = """
import itertools, resource, sys, torch
from pathlib import Path
from speechdlm_ext.encoders.logmel import LogMelEncoder
from speechdlm_ext.io.recordings import read_manifest
from speechdlm_ext.units.codebook import Codebook
from speechdlm_ext.units.encoding import encode_recordings
from speechdlm_ext.units.pipeline import UnitPipeline
from speechdlm_ext.vocoders.codebook_inversion import CodebookVocoder
from speechdlm_ext.vocoders.resynthesize import resynthesize
work, manifest, folder = sys.argv[1:]
class Enough(Exception): ...
def first_two(items, seconds):
    yield from itertools.islice(items, 2)
    print(round(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    raise Enough
encoder = LogMelEncoder()
codebook = Codebook(torch.randn(4, encoder.dim), encoder.name, encoder.options, encoder.frame_rate)
rows, quiet = read_manifest(manifest), lambda line: None
for run in range(2):
    try:
        if work == "encode":
            encode_recordings(rows, codebook, Path(folder, "units.jsonl"), progress=first_two, say=quiet)
        else:
            vocoder = CodebookVocoder(codebook)
            resynthesize(rows, "d", UnitPipeline(codebook, encoder), vocoder, folder, progress=first_two, say=quiet)
    except Enough:
        pass
"""


def write_manifest(path: Path, count: int, sound: str) -> None:
    """So many parts of 0.5 s of one recording of 2 s."""
    with open(path, "w") as file:
        for number in range(count):
            file.write(
                f'{{"audio_filepath": "{sound}", "id": "r{number}", "offset": {number % 4 / 2}, "duration": 0.5}}\n'
            )


@pytest.mark.commands
@pytest.mark.parametrize("work", ["read", "encode", "resynthesize"])
def test_memory(tmp_path: Path, work: str) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(1).normal(0, 0.1, 32000), 16000)
    peaks = []
    for count in (1000, 100_000 if work == "read" else 30_000):
        write_manifest(tmp_path / "m.jsonl", count, str(tmp_path / "a.wav"))
        code = ["-c", PEAK] if work == "read" else ["-c", WORK, work]
        command = [sys.executable, *code, tmp_path / "m.jsonl", tmp_path / str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = [list(map(int, line.split())) for line in done.stdout.splitlines()]
        if work != "read":
            assert [seconds for seconds, _ in found] == [count // 2, count // 2 - 1]
        peaks.append(found[-1][-1])
    assert peaks[1] < peaks[0] + 20, peaks  # MB; rows in memory would be 40 and more


def test_numbers_on_disk() -> None:
    numbers, values = NumbersOnDisk(), np.random.default_rng(1).permutation(600_000) - 300_000
    values[[5, 599_999]] = values[300_000], values[70_000]  # far apart, and as negative as hashes can be
    for value in values.tolist():
        numbers.append(value)
    places = [0, 65_535, 65_536, 589_823, 589_824, 599_999]
    assert len(numbers) == 600_000 and [numbers[place] for place in places] == values[places].tolist()
    assert numbers.repeated() == {values[5], values[599_999]} and NumbersOnDisk().repeated() == set()


def test_numbers_on_a_full_disk() -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, limits[1]))  # in the midst of the second block
        numbers = NumbersOnDisk()
        with pytest.raises(OSError):
            for number in range(140_000):
                numbers.append(number)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("replaced", [False, True])
def test_rows_of_a_file_that_has_changed_are_refused(tmp_path: Path, replaced: bool) -> None:
    path, text = tmp_path / "m.jsonl", "".join(f'{{"audio_filepath": "/{name}.wav"}}\n' for name in "abc")
    path.write_text(text)
    rows = read_manifest(path)
    changed = tmp_path / "new" if replaced else path
    changed.write_text("".join(reversed(text.splitlines(keepends=True))))
    changed.replace(path)
    if not replaced:
        os.utime(path, ns=(0, 0))
        with pytest.raises(InputError, match="m.jsonl has changed since it was first read"):
            rows[1]
    with pytest.raises(InputError, match="m.jsonl has changed since it was first read"):
        list(rows)


def test_slices_and_order(tmp_path: Path) -> None:
    names = [f"{number:02d}" for number in range(20)]
    (tmp_path / "m.jsonl").write_text("".join(f'{{"audio_filepath": "/{name}.wav"}}\n' for name in names))
    rows = read_manifest(tmp_path / "m.jsonl")
    for part in (slice(None), slice(3, 17, 4), slice(None, None, -1), slice(15, 2, -3), slice(9, 9)):
        assert [row["id"] for row in rows[part]] == names[part]
        assert [rows[part][place]["id"] for place in range(len(names[part]))] == names[part]
    assert rows[-1]["id"] == "19" and rows[1:][::2][1]["id"] == "03" and rows[:2] == [rows[0], rows[1]]


@pytest.mark.parametrize("dc", [0.005, -0.02])
def test_units_do_not_depend_on_dc(tmp_path: Path, dc: float) -> None:
    """Log-mel frames of the same sound with and without; without, not a bit is changed."""
    sound = conversation(6, 16000) / 32768 * 0.5
    for name, offset in (("with", [dc, 0]), ("without", [0, 0])):
        soundfile.write(tmp_path / f"{name}.wav", sound + offset, 16000, subtype="FLOAT")
    manifest, _ = make_manifest(tmp_path, tmp_path / "m.jsonl", say=lambda line: None)
    notes = {row["id"]: row.get("notes") for row in manifest}
    assert notes == {
        "with": [f"channel 1 has DC of {dc:.4f} of full scale, which is taken out before features"], "without": None
    }  # fmt: skip
    waves = {
        row["id"]: torch.cat(list(recording_blocks(row, 16000)), dim=1) for row in read_manifest(tmp_path / "m.jsonl")
    }
    assert torch.equal(waves["without"], torch.from_numpy(sound.T).float()) and torch.equal(
        *(w[1] for w in waves.values())
    )
    encoder = build_encoder("logmel", {})
    features = [encoder.encode(wave[0], 16000) for wave in waves.values()]
    assert (features[0] - features[1]).abs().max() < 0.05


@pytest.mark.parametrize(("gain", "said"), [(1.0, ""), (-1.0, ", inverted"), (0.25, ", times 0.25"), (None, None)])
def test_channels_that_are_the_same_sound(tmp_path: Path, gain: float | None, said: str | None) -> None:
    call = conversation(6, 16000) / 32768
    if gain is not None:
        call = np.stack([call[:, 0], gain * call[:, 0]], 1)
    soundfile.write(tmp_path / "a.wav", call, 16000)
    (row,) = make_manifest(tmp_path, tmp_path / "m.jsonl", say=lambda line: None)[0]
    assert row.get("notes") == (None if said is None else [f"channels 1 and 2 are the same sound{said}"])


def test_every_sound_file_is_listed_or_named(tmp_path: Path) -> None:
    call = conversation(2)
    for name, form in (("a.wav", "WAV"), ("b.opus", "OGG"), ("c.aiff", "AIFF"), ("d.dat", "FLAC"), ("e", "WAV")):
        soundfile.write(tmp_path / name, call, 8000, format=form, subtype="OPUS" if form == "OGG" else None)
    for name in ("f.m4a", "g.webm", "h.wma", "i.MP4", "j.sph"):
        (tmp_path / name).write_bytes(b"no sound in it")
    (tmp_path / "notes.txt").write_text("RIFF is no sound")
    said: list[str] = []
    made, files = make_manifest(tmp_path, tmp_path / "out" / "m.jsonl", say=said.append)
    assert [row["id"] for row in made] == ["a", "b", "c", "d", "e"] and files == 10
    skipped = [line for line in said if line.startswith("skipped: ")]
    assert len(skipped) == 5 and all("ffmpeg" in line for line in skipped)
