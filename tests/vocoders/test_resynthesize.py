"""Recordings to units and back: speech stays where it was, files lie as theirs do, work is not done twice."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import audio_info, read_audio, write_audio
from speechdlm_ext.io.output_paths import MirrorPaths
from speechdlm_ext.io.resume_log import ResumeLog, read_resume_log
from speechdlm_ext.io.sharding import Shard
from speechdlm_ext.metrics.agreement import speech_agreement
from speechdlm_ext.units.files import format_units
from speechdlm_ext.units.kmeans import train_codebook
from speechdlm_ext.units.pipeline import UnitPipeline
from speechdlm_ext.vad.energy import Energy
from speechdlm_ext.vocoders import CodebookVocoder, HiFiGANVocoder
from speechdlm_ext.vocoders.durations import are_deduplicated
from speechdlm_ext.vocoders.resynthesize import resynthesize
from speechdlm_ext.vocoders.sound_files import SoundWriter, is_made
from tests.helpers.features import sample_features
from tests.helpers.vocoders import published_config, published_weights, write

CALLS = ("google_two_channel", "azure_katiesteve", "auto_repairs_40")


@pytest.fixture(scope="module")
def recordings(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set ``talk`` of calls and read speech in folders, one recording at 44.1 kHz; ``manifest.jsonl``."""
    folder = tmp_path_factory.mktemp("data")
    home = folder / "talk"
    for name in CALLS:
        (home / "calls").mkdir(parents=True, exist_ok=True)
        wave, rate = read_audio(next((data / "speech" / "calls").glob(f"{name}.*")))
        write_audio(home / "calls" / f"{name}.wav", wave[:, : 20 * rate], rate)
    (home / "read" / "deep").mkdir(parents=True)
    shutil.copy(sorted((data / "speech" / "librispeech_test_other").glob("*.ogg"))[0], home / "read" / "one.ogg")
    wave, _ = read_audio(sorted((data / "speech" / "ljspeech").glob("*.flac"))[1], 44100)
    write_audio(home / "read" / "deep" / "two.wav", wave[:, : 44100 * 5 + 123], 44100)
    rows = []
    for path in sorted(home.rglob("*.*")):
        info = audio_info(path)
        facts = {"duration": info.duration, "channels": info.channels, "sample_rate": info.sample_rate}
        rows.append({"id": path.stem, "audio_filepath": str(path), **facts})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def rows(recordings: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (recordings / "manifest.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def choice(rows: list[dict[str, Any]], recordings: Path) -> UnitPipeline:
    """Units of the demo's size, learned from these recordings."""
    encoder = LogMelEncoder()
    features, levels = sample_features(rows, encoder, 20000, seed=1)
    codebook = train_codebook(features, encoder, 100, 1, levels)
    codebook.save(recordings / "codebook.safetensors")
    return UnitPipeline(codebook, encoder, None, {})


@pytest.fixture(scope="module")
def output(rows: Any, choice: UnitPipeline, recordings: Path) -> tuple[Path, list[str]]:
    said: list[str] = []
    made = resynthesize(rows, "talk", choice, CodebookVocoder(choice.codebook), recordings / "out", say=said.append)
    assert len(made.paths) == 5 and not made.skipped
    return recordings / "out", said


@pytest.mark.commands
def test_files_lie_as_the_recordings_do_and_resampling_is_said(output: Any) -> None:
    folder, said = output
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.wav")}
    assert found == {*(f"talk/calls/{name}.wav" for name in CALLS), "talk/read/one.wav", "talk/read/deep/two.wav"}
    text = "\n".join(said)
    assert "recordings at 44100 Hz: resampled to the encoder's 16000 Hz and to the vocoder's 16000 Hz" in text


def test_speech_stays_where_it_was_and_lengths_are_exact(output: Any, rows: Any) -> None:
    frames, agreeing = 0.0, 0.0
    for row in rows:
        source, _ = read_audio(row["audio_filepath"], 16000)
        path = output[0] / "talk" / Path(row["audio_filepath"].partition("/talk/")[2]).with_suffix(".wav")
        made, rate = read_audio(path)
        assert rate == 16000 and made.shape == source.shape
        assert abs(made.shape[1] / rate - row["duration"]) < 0.02  # a frame
        for one, other in zip(source, made, strict=True):
            duration = len(one) / 16000
            share = speech_agreement(*(Energy().detect(wave.numpy(), 16000)[0] for wave in (one, other)), duration)
            assert share >= 0.9, (row["id"], share)
            frames, agreeing = frames + duration, agreeing + share * duration
    assert agreeing / frames >= 0.95


def test_units_of_speech_are_told_from_deduplicated_ones(rows: Any, choice: UnitPipeline) -> None:
    spoken, runs = [], []
    for row in rows:
        units = choice.codebook.quantize(choice.encoder.encode(read_audio(row["audio_filepath"], 16000)[0][0], 16000))
        spoken.append({"audio": row["id"], "unitA": format_units(units.tolist())})
        runs.append({"audio": row["id"], "unitA": format_units(torch.unique_consecutive(units).tolist())})
    assert are_deduplicated(spoken) == [False] * 5 and are_deduplicated(runs) == [True] * 5


def test_agreement_against_a_count() -> None:
    """Frames of 10 ms, told one by one."""
    one, other = [(0.1, 0.5), (0.8, 1.0)], [(0.2, 0.55)]
    count = sum(
        any(a <= (t + 0.5) / 100 < b for a, b in one) == any(a <= (t + 0.5) / 100 < b for a, b in other)
        for t in range(120)
    )
    assert speech_agreement(one, other, 1.2) == pytest.approx(count / 120)
    assert speech_agreement([], [], 0.0) == 1.0


def test_a_recording_that_changes_meanwhile_is_made_again(choice: UnitPipeline, tmp_path: Path) -> None:
    sound, path = np.random.default_rng(1).normal(0, 0.1, 32000), tmp_path / "in" / "a.wav"
    path.parent.mkdir()
    some = [{"id": "a", "audio_filepath": str(path)}]

    def seconds(change: bool) -> float:
        def meanwhile(items: Any, seconds: float) -> Any:
            for item in items:
                if change:
                    soundfile.write(path, sound, 16000)
                yield item

        vocoder = CodebookVocoder(choice.codebook)
        made = resynthesize(some, "d", choice, vocoder, tmp_path / "out", progress=meanwhile, overwrite=True)
        return audio_info(made.paths["a"]).duration

    soundfile.write(path, sound[:16000], 16000)
    assert [seconds(True), seconds(False)] == [1.0, 2.0]


@pytest.mark.commands
def test_more_shards_than_files_can_be_open(rows: Any, choice: UnitPipeline, tmp_path: Path) -> None:
    vocoder, some = CodebookVocoder(choice.codebook), rows[-1:]
    resynthesize(some, "talk", choice, vocoder, tmp_path, Shard(0, 300), say=lambda text: None)
    first = next(tmp_path.rglob(".resynthesized.shard-0-of-300"))
    for shard in range(1, 300):
        shutil.copy(first, first.with_name(f".resynthesized.shard-{shard}-of-300"))
    limits, said = resource.getrlimit(resource.RLIMIT_NOFILE), list[str]()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, limits[1]))
        resynthesize(some, "talk", choice, vocoder, tmp_path, say=said.append)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert said[0] == "1 of 1 wav files exist already"


@pytest.mark.commands
def test_what_is_there_is_kept_and_the_rest_made(output: Any, rows: Any, choice: UnitPipeline, tmp_path: Path) -> None:
    vocoder = CodebookVocoder(choice.codebook)
    for index in (0, 1):
        resynthesize(rows, "talk", choice, vocoder, tmp_path, Shard(index, 2), say=lambda text: None)
    shards = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.wav")}
    whole = {path.relative_to(output[0]): path.read_bytes() for path in output[0].rglob("*.wav")}
    assert shards == whole
    # Without shards it finds what the shards have made; one that is missing is made again, the others not touched.
    gone, *kept = sorted(tmp_path.rglob("*.wav"))
    stamps = {path: os.stat(path).st_mtime_ns for path in kept}
    gone.unlink()
    said: list[str] = []
    made = resynthesize(rows, "talk", choice, vocoder, tmp_path, say=said.append)
    assert said[0] == "4 of 5 wav files exist already" and len(made.paths) == 5
    assert gone.read_bytes() == whole[gone.relative_to(tmp_path)]
    assert stamps == {path: os.stat(path).st_mtime_ns for path in kept}
    # Another seed is another sound: nobody's files are replaced unasked.
    other = CodebookVocoder(choice.codebook, seed=2)
    with pytest.raises(InputError, match="exists already, from other input or settings: pass --overwrite"):
        resynthesize(rows, "talk", choice, other, tmp_path)
    resynthesize(rows[:2], "talk", choice, other, tmp_path, overwrite=True, say=lambda text: None)
    assert sum(path.read_bytes() != whole[path.relative_to(tmp_path)] for path in tmp_path.rglob("*.wav")) == 2


def test_a_second_run_is_refused_while_the_first_is_at_work(rows: Any, choice: UnitPipeline, tmp_path: Path) -> None:
    vocoder = CodebookVocoder(choice.codebook)

    def interrupted(items: Any, seconds: float) -> Any:
        yield next(iter(items))
        with pytest.raises(InputError, match="another run is at work on it"):
            resynthesize(rows, "talk", choice, vocoder, tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resynthesize(rows, "talk", choice, vocoder, tmp_path, progress=interrupted, say=lambda text: None)
    assert len(list(tmp_path.rglob("*.wav"))) == 1 and not list(tmp_path.rglob("*.tmp"))
    said: list[str] = []
    resynthesize(rows[:2], "talk", choice, vocoder, tmp_path, say=said.append)
    assert said[0] == "1 of 2 wav files exist already"


class Failing(CodebookVocoder):
    """Is stopped in the middle of the work."""

    def decode(self, units: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt


def test_recordings_are_never_overwritten(rows: Any, choice: UnitPipeline, recordings: Path, tmp_path: Path) -> None:
    """Neither by their own sound nor by another's, wherever links lead."""
    source, link = tmp_path / "real" / "talk" / "two.wav", tmp_path / "copy" / "talk" / "two.wav"
    for path in (source, link):
        path.parent.mkdir(parents=True)
    shutil.copy(recordings / "talk" / "read" / "deep" / "two.wav", source)
    kept = source.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    link.symlink_to(source)
    row, linked = {"id": "two", "audio_filepath": str(source)}, {"id": "two", "audio_filepath": str(link)}
    pair = {"id": "two", "audio_filepath": [str(tmp_path / "talk" / "left.wav"), str(source)]}
    vocoder = CodebookVocoder(choice.codebook)
    for some, output in (
        ([row], tmp_path / "real"),
        ([row], tmp_path / "link"),
        ([row], tmp_path / "copy"),
        ([linked], tmp_path / "copy"),
        ([linked], tmp_path / "real"),
        ([pair], tmp_path / "real"),
    ):
        for overwrite in (False, True):
            with pytest.raises(InputError, match=r"would overwrite the recording .*two.wav: choose another --output"):
                resynthesize(some, "talk", choice, vocoder, output, overwrite=overwrite, say=lambda text: None)
    # The recording in the way may be of another shard.
    with pytest.raises(InputError, match="would overwrite the recording"):
        resynthesize([*rows, row], "talk", choice, vocoder, tmp_path / "real", Shard(0, 6), True, say=lambda text: None)
    assert source.read_bytes() == kept and link.is_symlink() and not list(tmp_path.rglob(".resynthesized*"))


def test_the_file_of_before_is_there_until_the_new_one_is(rows: Any, choice: UnitPipeline, tmp_path: Path) -> None:
    some = [row for row in rows if row["id"] == "two"]
    first = CodebookVocoder(choice.codebook)
    path = resynthesize(some, "talk", choice, first, tmp_path, say=lambda text: None).paths["two"]
    old = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        resynthesize(some, "talk", choice, Failing(choice.codebook, 2), tmp_path, overwrite=True, say=lambda text: None)
    assert path.read_bytes() == old
    # Nobody takes it for one of the new settings.
    with pytest.raises(InputError, match="pass --overwrite"):
        resynthesize(some, "talk", choice, CodebookVocoder(choice.codebook, 2), tmp_path, say=lambda text: None)
    resynthesize(some, "talk", choice, CodebookVocoder(choice.codebook, 2), tmp_path, overwrite=True)
    assert path.read_bytes() != old
    said: list[str] = []
    resynthesize(some, "talk", choice, CodebookVocoder(choice.codebook, 2), tmp_path, say=said.append)
    assert said[0] == "1 of 1 wav files exist already"
    # A refusal leaves the account of what is there as it was.
    with pytest.raises(InputError, match="pass --overwrite"):
        resynthesize(some, "talk", choice, first, tmp_path)
    resynthesize(some, "talk", choice, CodebookVocoder(choice.codebook, 2), tmp_path, say=said.append)
    assert said[-1] == "1 of 1 wav files exist already"


def test_accounts_of_other_shards_do_not_claim_what_was_overwritten(
    rows: Any, choice: UnitPipeline, tmp_path: Path
) -> None:
    some = [row for row in rows if row["id"] in ("one", "two")]
    first, second = CodebookVocoder(choice.codebook), CodebookVocoder(choice.codebook, 2)
    for index in (0, 1):
        resynthesize(some, "talk", choice, first, tmp_path, Shard(index, 2), say=lambda text: None)
    for index in (0, 1, 2):
        resynthesize(some, "talk", choice, second, tmp_path, Shard(index, 3), True, say=lambda text: None)
    said: list[str] = []
    resynthesize(some, "talk", choice, second, tmp_path, say=said.append)
    assert said[0] == "2 of 2 wav files exist already"
    for shard in (Shard(0, 2), Shard(1, 2), None):
        with pytest.raises(InputError, match="exists already, from other input or settings"):
            resynthesize(some, "talk", choice, first, tmp_path, shard)


def test_two_runs_of_other_settings_are_not_at_work_in_one_folder(
    rows: Any, choice: UnitPipeline, tmp_path: Path
) -> None:
    """Each would make some of the files; shards of one run may be at work together."""
    some = [row for row in rows if row["id"] in ("one", "two")]
    vocoder = CodebookVocoder(choice.codebook)

    def meanwhile(items: Any, seconds: float) -> Any:
        other = CodebookVocoder(choice.codebook, 2)
        for shard in (Shard(1, 2), Shard(0, 3)):
            with pytest.raises(InputError, match="shard-0-of-2: another run is at work on it"):
                resynthesize(some, "talk", choice, other, tmp_path, shard, say=lambda text: None)
        resynthesize(some, "talk", choice, vocoder, tmp_path, Shard(1, 2), say=lambda text: None)
        yield from items

    resynthesize(some, "talk", choice, vocoder, tmp_path, Shard(0, 2), progress=meanwhile, say=lambda text: None)
    assert len(list(tmp_path.rglob("*.wav"))) == 2


def test_a_note_that_was_not_followed_by_its_file_claims_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, torch.zeros(100), 16000)
    old = path.read_bytes()
    log = ResumeLog(tmp_path / "journal", {})
    with (
        log as journal,
        pytest.raises(InputError, match="not all finite"),
        SoundWriter(journal, 16000, print) as writer,
    ):
        writer.write("a.wav", "new", path, torch.full((1, 9), torch.nan))
    entry = read_resume_log(tmp_path / "journal")[1]["a.wav"]
    assert path.read_bytes() == old and not is_made(path, "new", entry, overwrite=True)
    with ResumeLog(tmp_path / "journal", {}) as journal, SoundWriter(journal, 16000, print) as writer:
        writer.write("a.wav", "new", path, torch.ones(1, 9))
    entry = read_resume_log(tmp_path / "journal")[1]["a.wav"]
    assert is_made(path, "new", entry, overwrite=True) and not is_made(path, "other", entry, overwrite=True)


@pytest.mark.parametrize("damage", ["{broken\n", "[1]\n", '{"key": [1], "value": 2}\n', '{"key": "half'])
def test_damaged_accounts_count_as_far_as_they_are_whole(
    rows: Any, choice: UnitPipeline, tmp_path: Path, damage: str
) -> None:
    some = [row for row in rows if row["id"] in ("one", "two")]
    vocoder = CodebookVocoder(choice.codebook)
    for index in (0, 1):
        resynthesize(some, "talk", choice, vocoder, tmp_path, Shard(index, 2), say=lambda text: None)
    for account in (tmp_path / "talk").glob(".resynthesized*"):
        with open(account, "a") as file:
            file.write(damage)
    (tmp_path / "talk" / ".resynthesized.shard-0-of-9").write_text(damage)
    said: list[str] = []
    resynthesize(some, "talk", choice, vocoder, tmp_path, say=said.append)
    assert said[0] == "2 of 2 wav files exist already"


@pytest.mark.commands
def test_a_bad_recording_costs_itself_alone(rows: Any, choice: UnitPipeline, tmp_path: Path) -> None:
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "bad.wav").write_bytes(b"RIFF")
    bad = {"id": "bad", "audio_filepath": str(tmp_path / "talk" / "bad.wav"), "duration": 1.0, "channels": 1}
    vocoder = CodebookVocoder(choice.codebook)
    made = resynthesize([bad, rows[0]], "talk", choice, vocoder, tmp_path / "out", say=lambda text: None)
    assert list(made.paths) == [rows[0]["id"]] and made.skipped[0]["id"] == "bad"
    errors = json.loads((tmp_path / "out" / "talk" / ".resynthesized.errors").read_text())
    assert errors["id"] == "bad" and "not audio" in errors["error"]
    with pytest.raises(InputError, match="none of 1 recordings could be encoded"):
        resynthesize([bad], "talk", choice, vocoder, tmp_path / "out", say=lambda text: None)


def test_predicted_durations(rows: Any, choice: UnitPipeline, tmp_path: Path) -> None:
    """With a predictor units last as predicted, without one the wish is refused; by default as in the recording."""
    vocoders = {}
    for durations in (False, True):
        config = published_config(units=100, durations=durations)
        vocoders[durations] = HiFiGANVocoder.load(write(tmp_path / str(durations), config, published_weights(config)))
    some = [row for row in rows if row["id"] == "two"]
    made = resynthesize(some, "talk", choice, vocoders[False], tmp_path / "kept", say=lambda text: None)
    assert abs(audio_info(made.paths["two"]).duration - some[0]["duration"]) < 1e-3
    with pytest.raises(InputError, match="no predictor of durations"):
        resynthesize(some, "talk", choice, vocoders[False], tmp_path / "no", predict_durations=True)
    made = resynthesize(
        some, "talk", choice, vocoders[True], tmp_path / "yes", predict_durations=True, say=lambda text: None
    )
    wave, _ = read_audio(some[0]["audio_filepath"], 16000)
    units = torch.unique_consecutive(choice.codebook.quantize(choice.encoder.encode(wave[0], 16000)))
    frames = int(vocoders[True].predict_durations(units).sum())
    assert audio_info(made.paths["two"]).frames == frames * 320 != wave.shape[1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b/a", "b/data", "c"]), st.sampled_from("xyz"),
                          st.sampled_from(["wav", "flac"])), min_size=1, max_size=12, unique=True))  # fmt: skip
def test_no_two_recordings_have_the_same_file(names: list[tuple[str, str, str]]) -> None:
    for root in ("/corpora/data/v1", "/corpora/v1"):
        rows = [
            {"id": str(number), "audio_filepath": f"{root}/{folder}/{stem}.{suffix}"}
            for number, (folder, stem, suffix) in enumerate(names)
        ]
        mirror = MirrorPaths(rows, "data", "out")
        found = {row["id"]: mirror(row) for row in rows}
        assert len(set(found.values())) == len(rows)
        for row in rows:
            source, path = Path(row["audio_filepath"]), found[row["id"]]
            assert path.parts[:2] == ("out", "data") and path.suffix == ".wav"
            # The folders are the last ones of the source, and the name is its name, with or without its suffix.
            tail = path.parent.parts[2:]
            assert source.parent.parts[len(source.parent.parts) - len(tail) :] == tail
            assert path.stem in (source.stem, source.name)
            if all("data" in Path(other["audio_filepath"]).parts[:-1] for other in rows):
                assert tail == source.parent.parts[source.parent.parts.index("data") + 1 :]


def test_names_of_data_sets_and_joined_recordings() -> None:
    pair = {"id": "talk-7", "audio_filepath": ["/x/data/s/left.wav", "/x/data/s/right.wav"]}
    assert MirrorPaths([pair], "data", "out")(pair) == Path("out/data/s/talk-7.wav")
    for name in ("", "a/b", "..", "."):
        with pytest.raises(InputError, match="the name of a folder is expected"):
            MirrorPaths([pair], name, "out")


def test_the_command_and_its_page(recordings: Path, choice: UnitPipeline, checkout: Path, run_loaded: Any) -> None:
    command = ["python", checkout / "scripts/resynthesize.py", recordings / "manifest.jsonl", "talk", "--codebook",
               recordings / "codebook.safetensors", "--output-dir", recordings / "out2", "--page",
               recordings / "listen.html", "--page-items", "3", "--shard", "0/2"]  # fmt: skip
    done = run_loaded(command)
    assert "3 wav files" in done.stdout
    page = (recordings / "listen.html").read_text()
    assert page.count("data:audio/") == 6
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)|url\((?!["']?data:)|@import""", page)  # all is in the page
