"""SHAR folders that lhotse 1.33.0 wrote, of two parts of a recording in tests/data, beside that recording."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from speechdlm_ext.data.conversations import iter_conversations
from speechdlm_ext.data.duplex_cuts import read_cuts, read_sound
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import audio_info, read_audio

PARTS = {"first": (0.0, 0.72), "second": (1.92, 2.56)}


@pytest.fixture
def shar(data: Path) -> Path:
    return data / "reference" / "lhotse" / "shar"


def test_duplex_cuts_of_archives_have_the_recordings_sound(shar, data):
    whole = data / "reference" / "nemo" / "speechlm" / "audio"
    cuts = read_cuts(shar)
    assert [cut.id for cut in cuts] == list(PARTS)
    assert [cut.turns[0].text for cut in cuts] == ["four", "two"]
    for cut in cuts:
        start, stop = PARTS[cut.id]
        for side, name, rate in ((cut.source, "d1_source.flac", 16000), (cut.target, "d1_target.flac", 22050)):
            assert torch.equal(read_sound(side, rate), read_audio(whole / name, rate, start=start, stop=stop)[0][0])


def test_conversations_of_archives(shar, data):
    (first, second) = iter_conversations(shar, "<audio>", context="repeat:")
    assert (first.answer, second.answer) == ("four", "two") and first.turns[0].text == "repeat: <audio>"
    sound = read_audio(data / "reference/nemo/speechlm/audio/d1_source.flac", 16000, start=1.92, stop=2.56)[0][0]
    assert torch.equal(second.audios[0].read(16000), sound)
    assert audio_info(second.audios[0].path).frames == len(sound)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "target_audio.000001.tar").unlink(), "no target_audio of second"),
        (lambda folder: (folder / "recording.000000.tar").write_bytes(b"x" * 512), "no archive"),
        (
            lambda folder: shutil.copy(folder / "recording.000000.tar", folder / "recording.000001.tar"),
            "no recording of",
        ),
        (lambda folder: (folder / "cuts.000000.jsonl.gz").write_bytes(b"\x1f\x8b\x08"), "no compressed JSON"),
        (lambda folder: [path.unlink() for path in folder.glob("cuts*")], "expected a SHAR folder"),
    ],
)
def test_damaged_archives_are_refused_in_one_line(shar, tmp_path, damage, message):
    shutil.copytree(shar, tmp_path / "shar")
    damage(tmp_path / "shar")
    with pytest.raises(InputError, match=message) as error:
        read_cuts(tmp_path / "shar")
    assert "\n" not in str(error.value)


def test_an_archive_that_was_cut_off_since(shar, tmp_path):
    shutil.copytree(shar, tmp_path / "shar")
    cuts = read_cuts(tmp_path / "shar")
    archive = tmp_path / "shar" / "recording.000000.tar"
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(InputError, match="is cut off"):
        read_sound(cuts[0].source, 16000)
