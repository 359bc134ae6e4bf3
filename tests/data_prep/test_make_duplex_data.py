"""Conversations for duplex models from two-channel recordings: segments, transcripts, the agent's codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from speechdlm_ext.data.duplex_corpus import conversations, cut_conversation, read_transcripts, split_conversations
from speechdlm_ext.data.duplex_cuts import read_cuts
from speechdlm_ext.data.llm_tokenizer import load_tokenizer
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import write_audio
from tests.helpers.duplex import write_config, write_conversations

TURNS = [
    {"start": 0.5, "end": 2.0, "text": "hello there", "channel": 0},
    {"start": 2.2, "end": 4.0, "text": "good morning", "channel": 1},
    {"start": 3.5, "end": 4.5, "text": "to you", "channel": 1},
    {"start": 5.0, "end": 9.0, "text": "a long story", "channel": 0},
]


def _manifest(folder: Path, **more: object) -> Path:
    write_audio(folder / "call.wav", torch.zeros(2, 16000 * 10), 16000)
    path = folder / "manifest.jsonl"
    path.write_text(json.dumps({"id": "call", "audio_filepath": "call.wav", "duration": 10.0, **more}) + "\n")
    return path


def _transcripts(folder: Path) -> Path:
    path = folder / "transcripts.jsonl"
    path.write_text(json.dumps({"id": "call", "segments": TURNS}) + "\n")
    return path


def test_channels_become_speakers_and_overlapping_turns_one(tmp_path):
    (row,) = conversations(_manifest(tmp_path), read_transcripts(_transcripts(tmp_path)))
    turns = [(turn["speaker"], turn["start"], turn["duration"], turn["text"]) for turn in row["supervisions"]]
    assert turns == [
        ("user", 0.5, 1.5, "hello there"),
        ("agent", 2.2, 2.3, "good morning to you"),
        ("user", 5.0, 4.0, "a long story"),
    ]
    (other,) = conversations(_manifest(tmp_path), read_transcripts(_transcripts(tmp_path)), agent_channel=0)
    assert [turn["speaker"] for turn in other["supervisions"]] == ["agent", "user", "agent"]


def test_segments_end_where_nobody_speaks(tmp_path):
    (row,) = conversations(_manifest(tmp_path), read_transcripts(_transcripts(tmp_path)))
    first, second = cut_conversation(row, 6.0)
    assert (first["duration"], second["offset"], second["duration"]) == (4.5, 4.5, 5.5)
    assert [turn["text"] for turn in second["supervisions"]] == ["a long story"]
    assert second["supervisions"][0]["start"] == 0.5
    assert [part["id"] for part in (first, second)] == ["call-000", "call-001"]


def test_records_of_synthetic_dialogues_are_transcripts(tmp_path):
    (tmp_path / "call.json").write_text(json.dumps({"utterances": TURNS}))
    (row,) = conversations(_manifest(tmp_path), {})
    assert len(row["supervisions"]) == 3


def test_whole_recordings_are_held_out():
    rows = [{"audio_filepath": f"{n // 3}.wav", "duration": 1.0, "id": n} for n in range(30)]
    split = split_conversations(rows, 0.2, seed=1)
    held = {row["audio_filepath"] for row in split["valid"]}
    assert len(split["valid"]) == 6 and not held & {row["audio_filepath"] for row in split["train"]}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "--transcripts"),
        ({"supervisions": [{"start": 1, "text": "x", "speaker": "a"}]}, "duration or end"),
        (
            {"supervisions": [{**TURNS[0], "end": 900}]},
            "line 1: the supervision 'hello there' .* to 900 s, the recording",
        ),
    ],
)
def test_rows_without_turns_of_theirs_are_refused(tmp_path, more, message):
    with pytest.raises(InputError, match=message):
        list(conversations(_manifest(tmp_path, **more), {}))


@pytest.mark.commands
def test_command_adds_the_codes_of_the_agent(tmp_path, checkout, run_loaded):
    write_config(tmp_path)
    manifest = write_conversations(tmp_path, "all", 4, codes=False)
    command = ["python", checkout / "data_prep/make_duplex_data.py", manifest, tmp_path / "data"]
    options = ["--codec", f"units:{tmp_path / 'codebook.safetensors'}", "--valid", "0.25", "--vocab-size", "16"]
    done = run_loaded([*command, *options])
    assert "3 segments" in done.stdout
    cuts = read_cuts(tmp_path / "data/train.jsonl") + read_cuts(tmp_path / "data/valid.jsonl")
    assert sorted(cut.id for cut in cuts) == ["all0", "all1", "all2", "all3"]
    assert all(cut.codes.shape == (80, 1) and cut.codec_rate == 50 for cut in cuts)
    tokenizer = load_tokenizer(tmp_path / "data/tokenizer.model")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 3)
    assert tokenizer.ids_to_text(tokenizer.text_to_ids("two three")) == "two three"
    again = run_loaded([*command, *options], check=False)
    assert again.returncode == 2 and "--overwrite" in again.stderr and again.stderr.count("\n") == 1
