"""Corpora of every kind: what is found, how it is named, and what is skipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.corpus import read_corpus, unmatched_names
from speechdlm_ext.evaluation.speech_activity import choose_detection
from speechdlm_ext.io.rttm import SpeakerTurn, write_rttm
from tests.helpers.talks import write_talk


def test_a_folder(tmp_path: Path) -> None:
    for name, channels in (("b.wav", 2), ("sub/a.wav", 2), ("b.flac", 2), ("x-A.wav", 1), ("x-B.wav", 1),
                           ("y_left.wav", 1), ("y_right.wav", 1), ("z-1.wav", 1), ("z-2.wav", 1), ("z-3.wav", 1),
                           ("w-1.wav", 2), ("w-2.wav", 2), ("lone_a.wav", 1)):  # fmt: skip
        write_talk(tmp_path / name, [[]] * channels, 0.1)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    (tmp_path / "notes.txt").write_text("nothing")
    corpus = read_corpus(tmp_path)
    files = {d.name: [Path(f).name for f in d.files] for d in corpus.dialogues}
    assert files == {
        "b.wav": ["b.wav"], "b.flac": ["b.flac"], "sub/a": ["a.wav"], "x": ["x-A.wav", "x-B.wav"],
        "y": ["y_left.wav", "y_right.wav"], "z-1": ["z-1.wav"], "z-2": ["z-2.wav"], "z-3": ["z-3.wav"],
        "w-1": ["w-1.wav"], "w-2": ["w-2.wav"], "lone_a": ["lone_a.wav"],
    }  # fmt: skip
    assert corpus.names() == sorted(files)
    ((name, reason),) = corpus.skipped
    assert name == "broken" and "not audio" in reason


def test_numbers_are_pairs_only_where_the_user_says_so(tmp_path: Path) -> None:
    for name in ("lecture_1", "lecture_2", "x_0", "x_1", "call-ch1", "call-ch2", "talk_A", "talk_B"):
        write_talk(tmp_path / f"{name}.wav", [[]], 0.1)
    assert read_corpus(tmp_path).names() == ["call-ch1", "call-ch2", "lecture_1", "lecture_2", "talk", "x_0", "x_1"]
    assert read_corpus(tmp_path, mono_pairs=True).names() == ["call", "lecture", "talk", "x"]


def test_manifests_and_unit_files(tmp_path: Path) -> None:
    write_talk(tmp_path / "a.wav", [[]], 0.1)
    rows = [{"id": "two", "audio_filepath": ["a.wav", "a.wav"], "text": "so"}, {"audio_filepath": "a.wav"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = read_corpus(tmp_path / "m.jsonl")
    assert corpus.names() == ["a", "two"] and len(corpus.dialogues[1].files) == 2
    assert corpus.dialogues[1].row["text"] == "so"
    (tmp_path / "u.jsonl").write_text(
        '{"audio": "x", "unitA": "1 2", "unitA.durations": "2 1", "unitB": "3", "unitB.durations": "3", '
        '"frame_rate": 25}\n'
        "{'audio': 'y', 'unitA': '1 1', 'unitB': '2 2'}\n"
        '{"audio": "y", "unitA": "1 1", "unitB": "2 2"}\n{"audio": "z", "unitA": "1 1", "unitB": "2"}\n'
    )
    corpus = read_corpus(tmp_path / "u.jsonl")
    assert [(d.name, [u.tolist() for u in d.units], d.frame_rate) for d in corpus.dialogues] == [
        ("x", [[1, 1, 2], [3, 3, 3]], 25),
        ("y", [[1, 1], [2, 2]], 50),
    ]
    assert [name for name, _ in corpus.skipped] == ["y", "z"] and "unequal length" in corpus.skipped[1][1]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read_corpus(tmp_path / "none")
    with pytest.raises(InputError, match="has no dialogues"):
        read_corpus(tmp_path)
    (tmp_path / "broken.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"the first that was skipped: .*broken.wav is empty"):
        read_corpus(tmp_path)


def test_names_in_one_corpus_and_not_in_the_other() -> None:
    assert unmatched_names(["a", "b", "c"], ["b", "d"]) == {"generated": ["a", "c"], "reference": ["d"]}
    assert unmatched_names(["a"], ["b"]) is None  # two corpora that have nothing to do with each other


def test_speech_that_is_given(tmp_path: Path) -> None:
    write_talk(tmp_path / "talks" / "a.wav", [[], []], 5)
    write_talk(tmp_path / "talks" / "b.wav", [[], []], 5)
    corpora = {"generated": read_corpus(tmp_path / "talks")}
    with pytest.raises(InputError, match="no RTTM file in or beside it"):
        choose_detection("rttm", corpora)
    write_rttm(tmp_path / "talks.rttm", [SpeakerTurn("a", 1, 0.5, 1, "anna"), SpeakerTurn("a", 2, 2, 1, "ben")])
    detection = choose_detection("rttm", corpora)
    assert detection.given == {("generated", "a"): ([[(0.5, 1.5)], [(2, 3)]], ["anna", "ben"], True)}
    assert detection.frame_shift is None
    for spec, files in (("rttm", [tmp_path / "talks.rttm"]), (f"rttm:{tmp_path / 'talks.rttm'}", [])):
        assert choose_detection(spec, corpora, files).given == detection.given
    (tmp_path / "bad.rttm").write_text("SPEAKER a 1 0.5 -1 <NA> <NA> anna <NA> <NA>\n")
    with pytest.raises(InputError, match="bad.rttm, line 1"):
        choose_detection("rttm", corpora, [tmp_path / "bad.rttm"])
    rows = [{"id": "a", "audio_filepath": "talks/a.wav", "who": [[[0, 1]], []]}]
    (tmp_path / "m.jsonl").write_text(json.dumps(rows[0]) + "\n")
    manifest = {"generated": read_corpus(tmp_path / "m.jsonl")}
    assert choose_detection("field:who", manifest).given == {("generated", "a"): ([[(0.0, 1.0)], []], (), True)}
    with pytest.raises(InputError, match="field speech is missing"):
        choose_detection("field", manifest)
    for wrong in ([[[2, 1]]], [[[0, "x"]]], 5, [[[-1, 1]]], [[[0, float("inf")]]]):
        (tmp_path / "m.jsonl").write_text(json.dumps(rows[0] | {"who": wrong}) + "\n")
        with pytest.raises(InputError, match="a, field who"):
            choose_detection("field:who", {"generated": read_corpus(tmp_path / "m.jsonl")})


def test_the_choice_of_a_detector(tmp_path: Path) -> None:
    write_talk(tmp_path / "talks" / "a.wav", [[], []], 1)
    sound = read_corpus(tmp_path / "talks")
    for name in ("k", "l"):
        row = {"audio": "x", "unitA": "1 2", "unitB": "3 4", "codebook": name}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    units, others = (read_corpus(tmp_path / f"{name}.jsonl") for name in ("k", "l"))
    assert choose_detection("energy", {"generated": sound}).settings()["frame_shift"] == 0.01
    by_units = choose_detection(None, {"generated": units, "reference": units}, silence_units=[1])
    assert by_units.settings() == {
        "method": "units",
        "frame_shift": 0.02,
        "options": {"silence": (1,), "min_speech": 0.06, "min_silence": 0.1},
    }
    assert by_units.given["reference", "x"].speech == [[], []]  # 20 ms are no speech
    for method, corpora, message in (
        ("loud", {"generated": sound}, "--vad loud"),
        ("silero:x", {"generated": sound}, "--vad silero:x"),
        ("units", {"generated": sound}, "no units"),
        ("energy", {"generated": units}, "pass --vad units"),
        (None, {"generated": sound, "reference": units}, "pass --vad units"),
        ("units", {"generated": units, "reference": others}, "different codebooks"),
        (None, {"generated": units}, "silence cannot be found"),
    ):
        with pytest.raises(InputError, match=message):
            choose_detection(method, corpora)
