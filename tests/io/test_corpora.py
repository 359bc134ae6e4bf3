"""Corpora laid out as they are published, small; lhotse's own reading of what we write, and ours of what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.corpora import CORPORA
from speechdlm_ext.io.lhotse import lhotse_lines, read_lhotse
from speechdlm_ext.io.manifest import read_jsonl, write_jsonl
from speechdlm_ext.io.recordings import read_manifest, recording_blocks
from speechdlm_ext.io.scan import make_manifest
from speechdlm_ext.io.sharding import Shard
from speechdlm_ext.units.merging import merge
from tests.helpers.sphere import conversation, to_ulaw, write_fisher, write_sphere

CALL = conversation(2)


def listed(folder: Path, name: str, **options: object) -> list[dict]:
    make_manifest(folder, folder.parent / "m.jsonl", say=lambda line: None, corpus=CORPORA[name], **options)
    return list(read_manifest(folder.parent / "m.jsonl"))


def put(path: Path, samples: np.ndarray = CALL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".sph":
        write_sphere(path, to_ulaw(samples).tobytes(), len(samples), "ulaw", 1, "1")
    else:
        soundfile.write(path, samples, 8000)
    return path


def test_fisher_and_switchboard(tmp_path: Path) -> None:
    root = tmp_path / "fisher"
    (root / "fisher_eng_tr_sp_d1/audio/000").mkdir(parents=True)
    write_fisher(root / "fisher_eng_tr_sp_d1/audio/000/fe_03_00001.sph", CALL)
    put(root / "fe_03_p2_sph1/audio/058/fe_03_05851.sph")
    put(root / "other.wav")
    (root / "fe_03_p1_tran/doc").mkdir(parents=True)
    (root / "fe_03_p1_tran/doc/fe_03_p1_calldata.tbl").write_text(
        "CALL_ID,DATE_TIME,TOPICID,SIG_GRADE,CNV_GRADE,APIN,ASX.DL,APHNUM,BPIN,BSX.DL\n"
        "00001,20021211_16:40:05,ENG01,2.4,2.6,2602,f.a,203,1790,f.a\n"
    )
    first, second = sorted(listed(root, "fisher"), key=lambda row: row["id"])
    assert (first["id"], first["speakers"], first["topic"]) == ("fe_03_00001", ["2602", "1790"], "ENG01")
    assert second["id"] == "fe_03_05851" and "speakers" not in second
    assert first["duration"] == 2.0 and first["channels"] == 2 and first["sample_rate"] == 8000
    put(tmp_path / "swb/swb1_d1/data/sw02001.sph")
    put(tmp_path / "swb/swb1_d2/data/sw04940.sph")
    assert [row["id"] for row in listed(tmp_path / "swb", "switchboard", overwrite=True)] == ["sw02001", "sw04940"]


def test_candor(tmp_path: Path) -> None:
    name = "0020a0c5-1658-4747-99c1-2839e736b481"
    put(tmp_path / "candor" / name / "processed" / f"{name}.mp3", np.tile(CALL, (3, 1)))
    put(tmp_path / "candor" / name / "raw" / "someone.wav")
    (tmp_path / "candor" / name / "processed" / "channel_map.json").write_text('{"L": "left one", "R": "right one"}')
    (row,) = listed(tmp_path / "candor", "candor")
    assert row["id"] == name and row["speakers"] == ["left one", "right one"] and row["channels"] == 2


def test_channels_in_files_of_their_own(tmp_path: Path) -> None:
    sounds = [conversation(2, seed=seed)[:, 0] for seed in range(4)]
    for meeting in ("ES2002a", "ES2002b"):
        for number, sound in enumerate(sounds):
            put(tmp_path / f"amicorpus/{meeting}/audio/{meeting}.Headset-{number}.wav", sound)
    put(tmp_path / "amicorpus/ES2002a/audio/ES2002a.Mix-Headset.wav", sounds[0])
    rows = listed(tmp_path / "amicorpus", "ami")
    assert [(row["id"], row["channels"], len(row["audio_filepath"])) for row in rows] == [
        ("ES2002a", 4, 4), ("ES2002b", 4, 4)
    ]  # fmt: skip
    sound = torch.cat(list(recording_blocks(rows[0], 8000)), dim=1)
    np.testing.assert_array_equal(np.rint(sound.numpy() * 32768), np.stack(sounds))
    pairs = listed(tmp_path / "amicorpus", "ami", channels=2, overwrite=True)
    assert len(pairs) == 12 and pairs[1]["id"] == "ES2002a-0-2"
    assert [Path(file).name[-5] for file in pairs[1]["audio_filepath"]] == ["0", "2"]

    for name, sound in (("x_A", sounds[0]), ("x_B", sounds[1]), ("y-left", sounds[0]), ("y-right", sounds[1][:9000])):
        put(tmp_path / f"pairs/{name}.wav", sound)
    (row,) = listed(tmp_path / "pairs", "pairs", overwrite=True)
    assert row["id"] == "x" and row["channels"] == 2
    errors = [row["error"] for row in read_jsonl(tmp_path / "m.jsonl.errors")]
    assert len(errors) == 2 and "y has files of unequal length" in errors[0]


@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_channels_of_a_recording_stay_in_one_shard(tmp_path: Path, channels: int | None, count: int) -> None:
    for number in range(5):
        for channel in range(3 if number != 3 else 1):
            put(tmp_path / f"c/ES200{number}a.Headset-{channel}.wav", conversation(1, seed=3 * number + channel)[:, 0])
    put(tmp_path / "c/ES2004b.Headset-0.wav", CALL)  # it is not mono
    whole = listed(tmp_path / "c", "ami", channels=channels)
    before = [(tmp_path / name).read_bytes() for name in ("m.jsonl", "m.jsonl.errors")]
    assert len(whole) == (4 if channels is None else 12) and len(read_jsonl(tmp_path / "m.jsonl.errors")) == 2
    for index in reversed(range(count)):
        listed(tmp_path / "c", "ami", channels=channels, shard=Shard(index, count))
    (tmp_path / "m.jsonl").unlink()
    merge(tmp_path / "m.jsonl", [], tmp_path / "m.jsonl", say=lambda line: None)
    assert [(tmp_path / name).read_bytes() for name in ("m.jsonl", "m.jsonl.errors")] == before


def test_lhotse(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    files = [
        put(tmp_path / f"{name}.wav", sound) for name, sound in (("a", CALL), ("b", CALL[:, 0]), ("c", CALL[:, 1]))
    ]
    # Its recordings and cuts, read by us.
    recording = lhotse.Recording.from_file(files[0])
    cut = recording.to_cut().truncate(offset=0.5, duration=1.0)
    cut.supervisions = [lhotse.SupervisionSegment("s", "a", 0, 1, channel=0, text="a word", speaker="S1")]
    lhotse.RecordingSet.from_recordings([recording]).to_file(tmp_path / "recordings.jsonl.gz")
    lhotse.CutSet.from_cuts([cut]).to_file(tmp_path / "cuts.jsonl")
    (whole,), (part,) = read_lhotse(tmp_path / "recordings.jsonl.gz"), read_lhotse(tmp_path / "cuts.jsonl")
    assert whole == {
        "id": "a", "audio_filepath": str(files[0]), "duration": 2.0, "channels": 2, "sample_rate": 8000
    }  # fmt: skip
    assert part["offset"] == 0.5 and part["duration"] == 1.0 and part["text"] == "a word"
    for row, theirs in ((whole, recording.load_audio()), (part, cut.load_audio())):
        np.testing.assert_allclose(torch.cat(list(recording_blocks(row, 8000)), dim=1), theirs, atol=1e-6)
    # Ours, read by it.
    rows = [whole, part | {"id": "part"}, whole | {"id": "pair", "audio_filepath": [str(files[1]), str(files[2])]}]
    write_jsonl(tmp_path / "ours.jsonl", lhotse_lines(rows, cuts=True))
    for row, got in zip(rows, lhotse.CutSet.from_file(tmp_path / "ours.jsonl"), strict=True):
        np.testing.assert_allclose(got.load_audio(), torch.cat(list(recording_blocks(row, 8000)), dim=1), atol=1e-6)
    write_jsonl(tmp_path / "r.jsonl", lhotse_lines([rows[0], rows[2]]))
    for got in lhotse.RecordingSet.from_file(tmp_path / "r.jsonl"):
        np.testing.assert_allclose(got.load_audio() * 32768, CALL.T, atol=0.5)


def test_lhotse_without_the_package(tmp_path: Path) -> None:
    row = {"id": "a", "audio_filepath": "/x.wav", "duration": 2.0, "channels": 2, "sample_rate": 8000}
    write_jsonl(tmp_path / "r.jsonl", lhotse_lines([row]))
    assert list(read_lhotse(tmp_path / "r.jsonl")) == [row]
    write_jsonl(tmp_path / "c.jsonl", lhotse_lines([row | {"text": "so"}], cuts=True))
    assert list(read_lhotse(tmp_path / "c.jsonl")) == [row | {"text": "so"}]
    for line, said in (('{"id": 1}', "expected a recording"), ("{", "not JSON"), ('{"tracks": []}', "cut of one")):
        (tmp_path / "bad.jsonl").write_text(json.dumps(next(lhotse_lines([row]))) + f"\n{line}\n")
        with pytest.raises(InputError, match=f"bad.jsonl, line 2: .*{said}"):
            list(read_lhotse(tmp_path / "bad.jsonl"))
    with pytest.raises(InputError, match="no 'channels' in its row"):
        list(lhotse_lines([{"id": "a", "audio_filepath": "x", "duration": 1.0}]))
