"""Word error rate against bitrate: published points, files, and the command on a recording."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.encoders.logmel import LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.wer_bitrate import (
    Pair,
    abx_error,
    published_points,
    require_fastabx,
    word_segments,
)
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.metrics.units import unit_figures
from speechdlm_ext.units import Codebook, DPDPQuantizer
from speechdlm_ext.units.published_pairs import PUBLISHED


def test_published_points_are_those_of_the_published_pairs() -> None:
    points = published_points()
    assert {Pair(int(point["k"]), point["lambda"]).name for point in points} == set(PUBLISHED)
    for point in points:  # the table in the readme is rounded
        assert abs(point["bitrate"] - PUBLISHED[f"k{point['k']:g}-l{point['lambda']:g}"].bitrate) < 0.51
    assert min(points, key=lambda point: point["wer_median"]) == {
        "k": 1000, "lambda": 0.0, "bitrate": 386.4, "wer_median": pytest.approx(0.0526),
    }  # fmt: skip


def test_pairs_by_name() -> None:
    assert Pair.of("k500-l4500") == Pair(500, 4500.0) and Pair.of("k20-l0.5").name == "k20-l0.5"
    for name in ("k500", "500-4500", "kx-l1"):
        with pytest.raises(InputError, match=f"--pairs {name}"):
            Pair.of(name)


def test_units_of_words() -> None:
    rows = [{"id": "a", "words": [["Yes", 0.0, 0.2], ["no", 0.22, 0.3], ["Maybe", 0.3, 0.6]]}, {"id": "b"}]
    words, units = word_segments(rows, {"a": list(range(30)), "b": [1]}, 50.0)
    assert words == ["yes", "maybe"] and units == [list(range(10)), list(range(15, 30))]
    with pytest.raises(InputError, match="a: the word 'no' from 0 to 9 s is not in the recording"):
        word_segments([{"id": "a", "words": [["no", 0, 9]]}], {"a": [1, 2]}, 50.0)


def test_abx_error_of_two_phones_counted_by_hand(tmp_path: Path) -> None:
    """Needs Python 3.12 or later; a phone of 0.1 s has the same unit in its five frames."""
    pytest.importorskip("fastabx")
    said = [("a", 1), ("a", 1), ("a", 2), ("b", 2), ("b", 2)]
    lines = ["#file onset offset #phone prev-phone next-phone speaker"]
    for number, (phone, _) in enumerate(said):
        lines.append(f"talk {number / 10:.2f} {(number + 1) / 10:.2f} {phone} x y s1")
    (tmp_path / "phones.item").write_text("\n".join(lines) + "\n")
    units = {"talk": [unit for _, unit in said for _ in range(5)]}
    # X and A of phone a: pairs of (1, 1) are right, of X = 1 and A = 2 undecided, of X = 2 and A = 1 wrong. X and A of
    # phone b: right against B = 1, undecided against B = 2.
    ours = abx_error(tmp_path / "phones.item", tmp_path / "abx", units, 50.0)
    assert ours == pytest.approx(((0 + 0.5 + 1) / 3 + (0 + 0 + 0.5) / 3) / 2)


def test_abx_without_its_package_is_one_line() -> None:
    try:
        import fastabx  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match=r"pip install 'speechdlm_ext\[abx\]'"):
            require_fastabx()


@pytest.mark.commands
def test_the_command_measures_each_pair_once(tmp_path: Path, data: Path, here: Any) -> None:
    pytest.importorskip("pocketsphinx")
    speech = data / "speech" / "ljspeech"
    text = {"LJ001-0008": "has never been surpassed."}
    words = [["a", 0.1, 0.5], ["b", 0.6, 1.0], ["a", 1.0, 1.3]]
    rows = [
        {"id": name, "audio_filepath": str(speech / f"{name}.flac"), "text": said, "words": words}
        for name, said in text.items()
    ]
    manifest = tmp_path / "test.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    waves = [read_audio(row["audio_filepath"], 16000)[0] for row in rows]
    encoder = LogMelEncoder()
    frames = [encoder.encode(wave[0], 16000) for wave in waves]
    for k in (8, 16):
        book = Codebook(torch.cat(frames)[:: 85 // k][:k], "logmel", encoder.options, 50.0)
        book.save(tmp_path / f"k{k}.safetensors")
    out = tmp_path / "out"
    command = ["scripts/plot_wer_bitrate.py", manifest, out, "--asr", "pocketsphinx", "--device", "cpu"]
    command += ["--codebook", tmp_path / "k{k}.safetensors", "--num-neighbors", "0", "--num-workers", "1"]
    command += ["--pairs", "k8-l0", "k16-l500"]
    for shard in ("0/2", "1/2"):
        status, printed, error = here(*command, "--shard", shard)
        assert status == 0, error
        assert "bit/s, WER" in printed and not (out / "wer_bitrate.csv").exists()
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.is_file()}
    status, printed, error = here(*command, "--figure", tmp_path / "figure.svg")
    assert status == 0, error
    assert all(path.stat().st_mtime_ns == time for path, time in made.items())
    assert "<svg" in (tmp_path / "figure.svg").read_text()
    with open(out / "wer_bitrate.csv", encoding="utf-8") as file:
        eight, sixteen = csv.DictReader(file)
    assert (eight["k"], eight["lambda"], sixteen["k"], sixteen["lambda"]) == ("8", "0.0", "16", "500.0")
    book = Codebook.load(tmp_path / "k16.safetensors")
    units = [DPDPQuantizer(book, 500.0).quantize(one).numpy() for one in frames]
    expected: Any = unit_figures([[one] for one in units], 50.0)["all"]["bitrate"]
    assert float(sixteen["bitrate"]) == pytest.approx(expected)
    assert float(eight["wer"]) > 0 and int(eight["utterances"]) == 1 and eight["same_different"] != ""
    # Another text, other figures.
    rows[0]["text"] = "something else altogether"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, printed, error = here(*command[:-1])
    assert status == 0, error
    with open(out / "wer_bitrate.csv", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["wer"] != eight["wer"]


def test_bad_input_is_one_line(tmp_path: Path, data: Path, here: Any) -> None:
    speech = data / "speech" / "ljspeech" / "LJ001-0002.flac"
    manifest = tmp_path / "test.jsonl"
    manifest.write_text(json.dumps({"id": "a", "audio_filepath": str(speech)}) + "\n")
    command = ["scripts/plot_wer_bitrate.py", manifest, tmp_path / "out", "--asr", "pocketsphinx"]
    cases = [((), "a has no text"), (("--pairs", "500"), "--pairs 500: K and λ are expected")]
    for words, expected in cases:
        status, _, error = here(*command, *words)
        assert status == 2 and error.count("\n") == 1 and expected in error
