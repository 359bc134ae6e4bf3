"""manifest → codebook → units → shards merged → data: real recordings among bad ones, killed, run twice at once."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.io.manifest import read_jsonl, write_jsonl
from speechdlm_ext.units import Codebook, DPDPQuantizer
from speechdlm_ext.units.files import expand_durations, parse_units

pytestmark = pytest.mark.commands

QUIET = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """Speech in all formats, mono and stereo, at rates from 8 to 96 kHz and in 8 bits, and files of no use."""
    root = tmp_path_factory.mktemp("my speech é")
    call, rate = soundfile.read(data / "speech" / "calls" / "google_two_channel.flac")
    speech, speech_rate = soundfile.read(data / "speech" / "jfk" / "jfk.flac")
    (root / "calls" / "of “Monday”").mkdir(parents=True)
    for number in range(6):
        ending = ("wav", "flac", "ogg")[number % 3]
        piece = call[number * rate : number * rate + rate + 100 * number]
        soundfile.write(root / "calls" / f"{number}.{ending}", piece, rate)
        part = speech[number * speech_rate : (number + 2) * speech_rate]
        soundfile.write(root / "calls" / "of “Monday”" / f"{number}.mp3", part, speech_rate)
    soundfile.write(root / "8 bit.wav", speech[:32000], speech_rate, subtype="PCM_U8")
    soundfile.write(root / "96 kHz.wav", np.repeat(speech[:16000], 6), 96000)
    soundfile.write(root / "25 ms.wav", speech[20000:20400], speech_rate)
    # Of no use.
    soundfile.write(root / "10 ms.wav", speech[:160], speech_rate)
    soundfile.write(root / "silent.flac", np.zeros(16000), 16000)
    soundfile.write(root / "nan.wav", np.array([0.1, np.nan] * 8000, np.float32), 16000, subtype="FLOAT")
    soundfile.write(root / "no samples.wav", np.zeros(0), 16000)
    (root / "empty.wav").touch()
    (root / "text.mp3").write_text("not sound")
    return root


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, folder: Path, run_loaded, here) -> Path:
    """What one run of the three commands makes of it."""
    out = tmp_path_factory.mktemp("work")
    status, printed, error = here("data_prep/make_manifest.py", folder, out / "manifest.jsonl")
    assert status == 0 and "15 of 21 recordings" in printed, error
    book = [out / "manifest.jsonl", out / "book.safetensors", "--encoder", "logmel", "--clusters", "30"]
    assert here("data_prep/train_codebook.py", *book, "--max-frames", "900")[0] == 0
    assert not list(out.glob("book.*.npy*"))
    units = [out / "manifest.jsonl", out / "units.jsonl", "--codebook", out / "book.safetensors"]
    encoded = run_loaded(["python", "data_prep/encode_units.py", *units], env=QUIET)
    assert "15 recordings, 0.00" in encoded.stdout and "21 channels; 0 skipped" in encoded.stdout
    assert "units/s" in encoded.stdout and "bits/s" in encoded.stdout and "× real time" in encoded.stdout
    return out


def test_manifest_of_all_that_can_be_used(work: Path, folder: Path) -> None:
    rows = read_jsonl(work / "manifest.jsonl")
    assert len(rows) == 15 and len({row["id"] for row in rows}) == 15
    for row in rows:
        info = soundfile.info(row["audio_filepath"])
        assert os.path.isabs(row["audio_filepath"])
        assert (row["channels"], row["sample_rate"]) == (info.channels, info.samplerate)
        assert row["duration"] == pytest.approx(info.frames / info.samplerate, abs=1e-5)
    reasons = {Path(row["audio_filepath"]).name: row["error"] for row in read_jsonl(f"{work}/manifest.jsonl.errors")}
    expected = {"10 ms.wav": "0.010 s long", "silent.flac": "every sample is zero", "nan.wav": "not a number"} | {
        "no samples.wav": "no samples",
        "empty.wav": "0 bytes",
        "text.mp3": "not audio",
    }
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name] and name in reasons[name]


def test_units_of_each_channel_are_as_many_as_the_formula_says(work: Path) -> None:
    for row, made in zip(read_jsonl(work / "manifest.jsonl"), read_jsonl(work / "units.jsonl"), strict=True):
        samples = read_audio(row["audio_filepath"], 16000)[0].shape[1]
        channels = [key for key in made if key.startswith("unit")]
        assert made["audio"] == row["id"] and channels == ["unitA", "unitB"][: row["channels"]]
        for channel in channels:
            units = parse_units(made[channel])
            assert len(units) == samples // 320 and max(units) < 30


def test_shards_merged_are_one_run(work: Path, tmp_path: Path, here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three shards, one of them by SLURM's variables; one bad file; joined as units and into the manifest."""
    rows = [*read_jsonl(work / "manifest.jsonl"), {"id": "gone", "audio_filepath": "/no/such.wav", "speaker": "é"}]
    write_jsonl(tmp_path / "m.jsonl", rows)
    book = ["--codebook", work / "book.safetensors", "--deduplicate", "--duration-penalty", "200"]
    encode = ["data_prep/encode_units.py", tmp_path / "m.jsonl"]
    assert here(*encode, tmp_path / "one.jsonl", *book)[0] == 0
    for shard, count in (("0/3", 6), ("2/3", 5)):
        status, printed, _ = here(*encode, tmp_path / "u.jsonl", *book, "--shard", shard)
        assert status == 0 and f"shard {shard}: {count} recordings" in printed
    merge = ["data_prep/merge_manifest.py", tmp_path / "m.jsonl", tmp_path / "u.jsonl"]
    status, _, error = here(*merge, "--output", tmp_path / "joined.jsonl")
    assert status == 2 and "lacks shard 1 of 3" in error and len(error.splitlines()) == 1
    with monkeypatch.context() as slurm:
        for name, value in {"ID": 1, "COUNT": 1, "MIN": 1, "MAX": 1}.items():
            slurm.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        assert here(*encode, tmp_path / "u.jsonl", *book, "--shard", "slurm:3")[0] == 0
    status, printed, _ = here(*merge, "--output", tmp_path / "joined.jsonl")
    assert status == 0 and "1 items were skipped: gone" in printed
    for ending in ("", ".errors"):
        joined, one = ((tmp_path / f"{name}.jsonl{ending}").read_bytes() for name in ("joined", "one"))
        assert joined == one
    before = (tmp_path / "m.jsonl").read_bytes()
    status, _, error = here(*merge)
    assert status == 2 and "pass --output FILE, or --in-place" in error
    assert (tmp_path / "m.jsonl").read_bytes() == before
    assert here(*merge, "--in-place")[0] == 0
    for row, merged in zip(rows, read_jsonl(tmp_path / "m.jsonl"), strict=True):
        assert row.items() <= merged.items() and ("unitA.durations" in merged) == (row["id"] != "gone")
    # The same units as by hand: the penalized units of each channel's features.
    codebook = Codebook.load(work / "book.safetensors")
    encoder, quantizer = codebook.build_encoder(), DPDPQuantizer(codebook, 200.0)
    for row, made in zip(rows, map(expand_durations, read_jsonl(tmp_path / "joined.jsonl")), strict=False):
        for name, channel in zip(("unitA", "unitB"), read_audio(row["audio_filepath"], 16000)[0], strict=False):
            assert parse_units(made[name]) == quantizer.quantize(encoder.encode(channel, 16000)).tolist()


def test_deduplicated_units_binarize_with_their_durations(work: Path, tmp_path: Path, here) -> None:
    """Channels of a call differ in length: alone and with durations they are data, as a dialogue they are refused."""
    calls = [row for row in read_jsonl(work / "manifest.jsonl") if row["channels"] == 2]
    write_jsonl(tmp_path / "m.jsonl", calls)
    units = tmp_path / "runs.jsonl"
    encode = ["data_prep/encode_units.py", tmp_path / "m.jsonl", units, "--deduplicate"]
    assert here(*encode, "--codebook", work / "book.safetensors")[0] == 0
    rows = read_jsonl(units)
    assert any(len(row["unitA"].split()) != len(row["unitB"].split()) for row in rows)
    binarize = ["data_prep/binarize.py", "--trainpref", units, "--destdir"]
    status, _, error = here(*binarize, tmp_path / "refused")
    assert status == 2 and "channels of unequal length" in error and "unitA.durations" in error
    names = ["unitA", "unitA.durations", "unitB", "unitB.durations"]
    assert here(*binarize, tmp_path / "bin", "--channels", ",".join(names), "--dictionary", "joined")[0] == 0
    for name in names:
        words = ["<s>", "<pad>", "</s>", "<unk>"]
        words += [line.split()[0] for line in (tmp_path / "bin" / f"dict.{name}.txt").read_text().splitlines()]
        data = np.fromfile(tmp_path / "bin" / f"train.{name}.bin", np.uint16)
        text = " ".join(words[number] for number in data)
        assert text == " ".join(f"{row[name]} </s>" for row in rows)
    rows[2]["unitB.durations"] += " 1"
    write_jsonl(units, rows)
    status, _, error = here(*binarize, tmp_path / "wrong", "--channels", ",".join(names))
    assert status == 2 and "line 3: channels of unequal length" in error and "in unitB.durations" in error


@pytest.mark.parametrize("batch", [[], ["--batch-seconds", "6"]])
def test_bad_sound_costs_a_line_each(work: Path, tmp_path: Path, folder: Path, here, batch: list[str]) -> None:
    """A manifest that somebody wrote by hand, of all files: what can be encoded is, alone and in batches."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_jsonl(tmp_path / "m.jsonl", [{"audio_filepath": str(path)} for path in files])
    command = ["data_prep/encode_units.py", tmp_path / "m.jsonl", tmp_path / "u", *batch]
    status, printed, error = here(*command, "--codebook", work / "book.safetensors")
    assert status == 0 and not error.count("Traceback") and "16 recordings, 0.00" in printed
    errors = {Path(row["audio_filepath"]).name: row["error"] for row in read_jsonl(tmp_path / "u.errors")}
    expected = {"10 ms.wav": "shorter than one frame", "nan.wav": "not a number, first at 0.000 s"} | {
        "no samples.wav": "no samples",
        "empty.wav": "0 bytes",
        "text.mp3": "not audio",
    }
    assert errors.keys() == expected.keys()
    assert all(words in errors[name] and name in errors[name] for name, words in expected.items())
    made = {row["audio"]: row for row in read_jsonl(tmp_path / "u")}
    assert len(set(made["silent"]["unitA"].split())) == 1 and len(made["silent"]["unitA"].split()) == 50
    assert len(made["25_ms"]["unitA"].split()) == 1
    whole = {row["audio"]: row for row in read_jsonl(work / "units.jsonl")}
    assert made["8_bit"]["unitA"] == whole["8_bit"]["unitA"] and len(made["96_kHz"]["unitA"].split()) == 50


# The command as it is, but that each result takes a while, the last but one until it is killed: it cannot end before.
SLOW = """
import runpy, sys, time
from speechdlm_ext.io.resume_log import ResumeLog
add = ResumeLog.add
count = int(sys.argv[1])
def slow(journal, key, value):
    global count
    add(journal, key, value)
    count -= 1
    time.sleep(0.03 if count else 600)
ResumeLog.add = slow
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_killed_at_any_moment_nothing_is_lost(work: Path, tmp_path: Path, checkout: Path, here) -> None:
    """kill -9 twice, at moments of chance; what was done stays done, and the end is that of one run."""
    output, partial = tmp_path / "units.jsonl", tmp_path / "units.jsonl.partial"
    command = ["data_prep/encode_units.py", str(work / "manifest.jsonl"), str(output)]
    command += ["--codebook", str(work / "book.safetensors")]
    environment = {**os.environ, **QUIET, "PYTHONPATH": os.pathsep.join([str(checkout), *sys.path])}
    chance = random.Random(os.urandom(8))
    before = b""
    for goal in sorted(chance.sample(range(2, 15), 2)):
        left = 14 - max(before.count(b"\n") - 1, 0)
        process = subprocess.Popen([sys.executable, "-c", SLOW, str(left), *command], cwd=checkout, env=environment)
        while process.poll() is None and not (partial.exists() and partial.read_bytes().count(b"\n") >= goal):
            time.sleep(0.002)
        time.sleep(chance.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL and not output.exists()
        content = partial.read_bytes()
        assert content.startswith(before) and content.count(b"\n") >= goal
        before = content[: content.rindex(b"\n") + 1]
    status, printed, error = here(*command)
    done = len(before.splitlines()) - 1
    assert status == 0 and f"{done} of 15 recordings are done already" in printed + error
    assert output.read_bytes() == (work / "units.jsonl").read_bytes() and not partial.exists()


def test_second_run_is_told_in_one_line(work: Path, tmp_path: Path, here) -> None:
    book = ["--codebook", work / "book.safetensors"]
    with open(tmp_path / "units.jsonl.partial", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        status, _, error = here("data_prep/encode_units.py", work / "manifest.jsonl", tmp_path / "units.jsonl", *book)
    assert status == 2 and "units.jsonl.partial: another run is at work on it" in error
    assert len(error.splitlines()) == 1
    for script, arguments in {
        "data_prep/train_codebook.py": [work / "manifest.jsonl", tmp_path / "out"],
        "data_prep/make_manifest.py": [work.parent, tmp_path / "out"],
        "data_prep/merge_manifest.py": [work / "manifest.jsonl", work / "units.jsonl", "--output", tmp_path / "out"],
    }.items():
        with open(tmp_path / ".out.lock", "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if script.endswith("make_manifest.py"):
                soundfile.write(tmp_path / "a.wav", np.ones(16000) * 0.1, 16000)
                arguments[0] = tmp_path
            status, _, error = here(script, *arguments)
        assert status == 2 and "out: another run is at work on it" in error and len(error.splitlines()) == 1, script
        assert not (tmp_path / "out").exists()


def test_encoder_and_codebook_of_others(work: Path, tmp_path: Path, here) -> None:
    """A HuBERT checkpoint and a codebook that does not name its encoder, in batches: the units computed by hand."""
    from tests.helpers.speech_checkpoints import BASE, hubert, hubert_features, save_hubert

    model = hubert(3, **BASE)
    checkpoint = save_hubert(tmp_path / "hubert.pt", model, BASE)
    rows = [row for row in read_jsonl(work / "manifest.jsonl") if row["sample_rate"] >= 16000]
    write_jsonl(tmp_path / "m.jsonl", rows)
    waves = [read_audio(row["audio_filepath"], 16000)[0] for row in rows]
    features = [[hubert_features(model, channel, 2) for channel in wave] for wave in waves]
    centroids = torch.cat([channel for channels in features for channel in channels])[::40][:25].clone()
    torch.save({"codebook": centroids}, tmp_path / "book.pt")
    encode = ["data_prep/encode_units.py", tmp_path / "m.jsonl", tmp_path / "units.jsonl"]
    encode += ["--codebook", tmp_path / "book.pt"]
    status, _, error = here(*encode)
    assert status == 2 and "does not say which encoder it belongs to: pass --encoder" in error
    encode += ["--encoder", "hubert", "--checkpoint", checkpoint]
    for wrong, message in ((["--layer", "9"], "9"), (["--duration-penalty", "-1"], "--duration-penalty -1")):
        status, _, error = here(*encode, *wrong)
        assert status == 2 and message in error and len(error.splitlines()) == 1
    encode += ["--layer", "2", "--duration-penalty", "5", "--num-neighbors", "6", "--batch-seconds", "8"]
    assert here(*encode)[0] == 0
    quantizer = DPDPQuantizer(centroids, 5.0, 6)
    equal = total = 0
    for row, channels in zip(read_jsonl(tmp_path / "units.jsonl"), features, strict=True):
        assert (row["duration_penalty"], row["num_neighbors"], row["frame_rate"]) == (5.0, 6, 50.0)
        for name, channel in zip(("unitA", "unitB"), channels, strict=False):
            expected = quantizer.quantize(channel)
            units = torch.tensor(parse_units(row[name]))
            assert len(units) == len(expected)
            equal, total = equal + int((units == expected).sum()), total + len(units)
    assert total > 500 and equal >= 0.995 * total  # rounding may turn a tie


def test_codebook_of_a_pretrained_encoder(work: Path, tmp_path: Path, here) -> None:
    """It names its checkpoint, which may move; shards of its units are one run, to the last bit; another is refused."""
    from tests.helpers.speech_checkpoints import BASE, hubert, save_hubert

    checkpoint = save_hubert(tmp_path / "hubert.pt", hubert(3, **BASE), BASE)
    rows = [row for row in read_jsonl(work / "manifest.jsonl") if row["sample_rate"] >= 16000]
    write_jsonl(tmp_path / "m.jsonl", rows)
    train = ["data_prep/train_codebook.py", tmp_path / "m.jsonl", tmp_path / "book.safetensors", "--encoder", "hubert"]
    train += ["--checkpoint", checkpoint, "--layer", "2", "--clusters", "12", "--algorithm", "minibatch"]
    assert here(*train, "--share", "0.5")[0] == 0
    encode = ["data_prep/encode_units.py", tmp_path / "m.jsonl"]
    book = ["--codebook", tmp_path / "book.safetensors"]
    assert here(*encode, tmp_path / "one", *book)[0] == 0
    checkpoint.rename(tmp_path / "moved.pt")
    status, _, error = here(*encode, tmp_path / "u", *book)
    assert status == 2 and "hubert.pt" in error and len(error.splitlines()) == 1
    for shard in ("0/2", "1/2"):
        moved = ["--checkpoint", tmp_path / "moved.pt", "--shard", shard]
        assert here(*encode, tmp_path / "u", *book, *moved)[0] == 0
    merge = ["data_prep/merge_manifest.py", tmp_path / "m.jsonl", tmp_path / "u", "--output", tmp_path / "joined"]
    assert here(*merge)[0] == 0
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "one").read_bytes()
    assert len({unit for row in read_jsonl(tmp_path / "one") for unit in row["unitA"].split()}) > 6
    other = save_hubert(tmp_path / "other.pt", hubert(4, **BASE), BASE)
    status, _, error = here(*encode, tmp_path / "v", *book, "--checkpoint", other)
    assert status == 2 and "weights" in error and len(error.splitlines()) == 1
    status, _, error = here(*encode, tmp_path / "v", *book, "--checkpoint", tmp_path / "moved.pt", "--layer", "3")
    assert status == 2 and "layer" in error and len(error.splitlines()) == 1


def test_bad_input_in_one_line(work: Path, tmp_path: Path, here) -> None:
    book, manifest = work / "book.safetensors", work / "manifest.jsonl"
    lines = manifest.read_text(encoding="utf-8").splitlines()
    (tmp_path / "broken.jsonl").write_text("\n".join([*lines[:3], '{"id": "x", ', *lines[3:]]), encoding="utf-8")
    (tmp_path / "doubled.jsonl").write_text("\n".join([*lines, lines[2]]), encoding="utf-8")
    nameless = [{"audio_filepath": row["audio_filepath"]} for row in read_jsonl(manifest)]
    write_jsonl(tmp_path / "doubled audio.jsonl", [*nameless, nameless[0]])
    encode = ("data_prep/encode_units.py", manifest, tmp_path / "u")
    for arguments, message in (
        ((encode[0], tmp_path / "broken.jsonl", tmp_path / "u", "--codebook", book), "broken.jsonl, line 4: not JSON"),
        ((encode[0], tmp_path / "doubled.jsonl", tmp_path / "u", "--codebook", book), "line 16: the id"),
        ((encode[0], tmp_path / "doubled audio.jsonl", tmp_path / "u", "--codebook", book), "that of line 1, too"),
        ((*encode, "--codebook", book, "--shard", "5/4"), "shard 5/4: the index must be 0 to 3"),
        ((*encode, "--codebook", book, "--encoder", "hubert"), "is for the encoder logmel, not for hubert"),
        ((*encode, "--codebook", book, "--num-neighbors", "31"), "num_neighbors 31"),
        ((*encode, "--codebook", book, "--duration-penalty", "nan"), "--duration-penalty nan"),
        ((*encode, "--codebook", book, "--duration-penalty", "k500-l4500"), "500"),
        ((*encode, "--codebook", book, "--duration-penalty", "low"), "low"),
        ((*encode, "--codebook", book, "--batch-seconds", "-1"), "--batch-seconds -1"),
        ((*encode, "--codebook", book, "--device", "tpu"), "--device tpu"),
        ((*encode, "--codebook", book, "--encoder-options", "[1]"), "--encoder-options [1]"),
        ((encode[0], manifest, manifest, "--codebook", book, "--overwrite"), "is the manifest"),
        (("data_prep/make_manifest.py", work, tmp_path / "m", "--min-seconds", "nan"), "--min-seconds nan"),
        (("data_prep/train_codebook.py", manifest, tmp_path / "b", "--seed", "-1"), "--seed -1"),
        (("data_prep/train_codebook.py", manifest, tmp_path / "b", "--share", "2"), "--share 2"),
        (("data_prep/train_codebook.py", manifest, tmp_path / "b", "--checkpoint", "x"), "takes the options"),
        (("data_prep/train_codebook.py", manifest, tmp_path / "b", "--algorithm", "lloyd"), "--algorithm lloyd"),
    ):
        status, _, error = here(*arguments)
        assert status == 2 and message in error and len(error.splitlines()) == 1, (arguments, error)
    assert {path.name for path in tmp_path.iterdir()} == {"broken.jsonl", "doubled.jsonl", "doubled audio.jsonl"}


def test_relative_paths_are_the_manifests(work: Path, tmp_path: Path, folder: Path, here) -> None:
    rows = read_jsonl(work / "manifest.jsonl")[:3]
    for row in rows:
        row["audio_filepath"] = os.path.relpath(row["audio_filepath"], tmp_path)
    write_jsonl(tmp_path / "m.jsonl", rows)
    assert here("data_prep/encode_units.py", tmp_path / "m.jsonl", tmp_path / "u", "--codebook",
                work / "book.safetensors")[0] == 0  # fmt: skip
    whole = {row["audio"]: row for row in read_jsonl(work / "units.jsonl")}
    assert [json.dumps(row) for row in read_jsonl(tmp_path / "u")] == [json.dumps(whole[row["id"]]) for row in rows]
