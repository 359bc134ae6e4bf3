"""scripts/sample_units.py: rows continued by models of one channel and of dialogues; stopped and started again."""

from __future__ import annotations

import json
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.encoders.logmel import LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.options import DecodingOptions
from speechdlm_ext.hub import UnitModel
from speechdlm_ext.hub.dialogues import channel_texts
from speechdlm_ext.hub.load import load_model
from speechdlm_ext.hub.sample_file import continue_unit_file
from speechdlm_ext.io.sharding import Shard
from speechdlm_ext.units.codebook import Codebook
from tests.helpers.dialogue_checkpoints import write_checkpoint
from tests.helpers.unit_checkpoints import UNITS, utterances, write_unit_checkpoint
from tests.helpers.unit_models import toy_unit_lm, toy_unit_lstm

SAMPLING = DecodingOptions(sampling=True, stop_at_end=True, max_len_b=40)


def write_rows(path: Path, lengths: list[int], **fields: Any) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(utterances(lengths)):
        text, frames = " ".join(map(str, line)), " ".join(str(2 + unit % 3) for unit in line)
        rows.append({"audio": f"r{number}", "unitA": text, "unitA.durations": frames, "frame_rate": 50.0, **fields})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def timed_model() -> UnitModel:
    """A transformer whose units last for about three frames."""
    transformer = toy_unit_lm(durations=True)
    with torch.no_grad():
        said = transformer.decoder.output_duration
        assert said is not None
        said.bias.fill_(3.0)
    return UnitModel([transformer], frame_rate=50.0)


def test_the_command_continues_sequences_that_are_spoken_at_their_own_pace(
    tmp_path: Path, run_loaded: Any, checkout: Path
) -> None:
    rows = write_rows(tmp_path / "prompts.jsonl", [30, 0, 4], speaker="x")
    write_unit_checkpoint(tmp_path / "model.pt", timed_model().models[0])
    command = ["python", checkout / "scripts" / "sample_units.py", tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"]
    command += ["--checkpoint", tmp_path / "model.pt", "--prompt-units", "6", "--samples", "2", "--seed", "5"]
    done = run_loaded([*command, "--max-seconds", "1.2", "--min-len", "10", "--batch-size", "2"])
    assert "6 continued" in done.stdout and not list(tmp_path.glob("*.partial"))
    made = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["audio"] for row in made] == [f"r{n}-s{k}" for n in range(3) for k in (1, 2)]
    model = load_model(tmp_path / "model.pt")
    assert isinstance(model, UnitModel)
    for number, row in enumerate(made):
        given = rows[number // 2]
        units, frames = row["unitA"].split(), [int(word) for word in row["unitA.durations"].split()]
        prompt = given["unitA"].split()[:6]
        assert (row["prompt_units"], row["speaker"]) == (len(prompt), "x")
        assert row["seed"] == [5, number // 2, number % 2]
        assert units[: len(prompt)] == prompt and len(units) == len(frames) >= 10
        assert frames[: len(prompt)] == [int(word) for word in given["unitA.durations"].split()[:6]]
        options = {"sampling": True, "max_len_b": 60, "min_len": 10, "details": True}
        (expected,) = model.sample([" ".join(prompt)], seed=[row["seed"]], **options)
        assert units == [str(unit) for unit in expected.units.tolist()][: len(units)]
        assert frames[len(prompt) : -1] == expected.durations.tolist()[len(prompt) : len(units) - 1]
        if row["ended"]:
            assert sum(frames) <= 60 and len(units) == len(expected.units)
            assert row["score"] == pytest.approx(expected.score, abs=1e-5)
        else:  # 1.2 s, of which the prompt has as much as it really lasts
            assert sum(frames) == 60
    assert not all(row["ended"] for row in made)
    refused = run_loaded(command, check=False)
    assert refused.returncode == 2 and "pass --overwrite" in refused.stderr
    encoder = LogMelEncoder()
    Codebook(torch.randn(UNITS, 40) - 5, "logmel", encoder.options, 50.0).save(tmp_path / "book.safetensors")
    speak = ["python", checkout / "scripts" / "synthesize.py", tmp_path / "out.jsonl", tmp_path / "wavs"]
    run_loaded([*speak, "--codebook", tmp_path / "book.safetensors"])
    for row in made:
        with wave.open(str(tmp_path / "wavs" / f"{row['audio']}.wav")) as file:
            seconds = file.getnframes() / file.getframerate()
        assert seconds == pytest.approx(sum(map(int, row["unitA.durations"].split())) / 50, abs=0.021)


def test_a_run_that_was_stopped_goes_on_and_batches_change_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path / "prompts.jsonl", [3, 9, 1, 0, 7])
    model = UnitModel([toy_unit_lstm()])
    expected = continue_unit_file(
        model, tmp_path / "prompts.jsonl", tmp_path / "whole.jsonl", SAMPLING, 3, batch_size=4
    )
    assert all("unitA.durations" not in row for row in expected)  # of what, if the model does not say?
    done: list[int] = []

    def stop(units: int) -> None:
        done.append(units)
        if sum(done) > 80:  # in the third of batches that are 40 units long
            raise KeyboardInterrupt

    arguments = (tmp_path / "prompts.jsonl", tmp_path / "out.jsonl", SAMPLING, 3)
    with pytest.raises(KeyboardInterrupt):
        continue_unit_file(model, *arguments, batch_size=1, progress=stop)
    assert len((tmp_path / "out.jsonl.partial").read_text().splitlines()) == 3
    other = UnitModel([toy_unit_lstm(seed=4)])  # whose answers would be others
    found = continue_unit_file(other, *arguments, batch_size=1)
    assert found[:2] == expected[:2] and found[2:] != expected[2:]
    again = continue_unit_file(model, *arguments, batch_size=1, overwrite=True)
    assert again == expected


def test_joined_shards_equal_one_run_byte_for_byte(tmp_path: Path, run_command: Any, checkout: Path) -> None:
    prompts, model = tmp_path / "prompts.jsonl", UnitModel([toy_unit_lstm()])
    write_rows(prompts, [3, 9, 1, 0, 7])
    for shard in (None, Shard(0, 2), Shard(1, 2)):
        continue_unit_file(model, prompts, tmp_path / "out.jsonl", SAMPLING, 3, samples=2, batch_size=3, shard=shard)
    merge = ["python", checkout / "data_prep" / "merge_manifest.py", prompts]
    shards = sorted(tmp_path.glob("out.jsonl.shard-*"))
    run_command([*merge, *shards, "--output", tmp_path / "joined.jsonl"])
    assert (tmp_path / "joined.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    refused = run_command([*merge, shards[0], "--output", tmp_path / "half.jsonl"], check=False)
    assert refused.returncode == 2 and "6 continuations, expected 2 of each of 5 prompts" in refused.stderr


def test_one_channel_of_several_and_dialogues_by_the_same_function(tmp_path: Path) -> None:
    rows = [{"audio": "a", "unitA": "1 2 3", "unitB": "4 5 4", "unitB.durations": "1 2 1"}]
    path = tmp_path / "two.jsonl"
    path.write_text(json.dumps(rows[0]) + "\n")
    (found,) = continue_unit_file(timed_model(), path, tmp_path / "b.jsonl", SAMPLING, 1, channel="unitB")
    assert "unitA" not in found and found["unitB"].startswith("4 5 4")
    assert found["unitB.durations"].startswith("1 2 1 ")
    write_checkpoint(tmp_path)
    dialogues = load_model(tmp_path / "model.pt")
    with pytest.raises(InputError, match="dialogue a: its units are deduplicated, expected one for each frame"):
        continue_unit_file(dialogues, path, tmp_path / "d.jsonl", SAMPLING, 1)
    path = tmp_path / "frames.jsonl"
    path.write_text(json.dumps({"audio": "a", "unitA": "1 2 3", "unitB": "4 5 4"}) + "\n")
    twelve = DecodingOptions(sampling=True, max_len_b=12)
    (both,) = continue_unit_file(dialogues, path, tmp_path / "d.jsonl", twelve, 1, prompt_frames=2)
    assert both["prompt_frames"] == 2 and len(both["unitA"].split()) == len(both["unitB"].split()) == 12
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (dialogues, {"channel": "unitA"}, "--channel is for models of one channel"),
        (timed_model(), {"condition_on": "unitA"}, "--condition-on is for models of dialogues"),
        (timed_model(), {}, "row a: channels unitA, unitB, the model is of one: choose with --channel"),
        (timed_model(), {"channel": "unitC"}, "row a: no channel unitC in it, only unitA, unitB"),
    ]
    for model, given, message in refused:
        with pytest.raises(InputError, match=message):
            continue_unit_file(model, path, tmp_path / "x.jsonl", SAMPLING, 1, **given)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio": "a", "unitA": "1 20"}, "row a: 20 is no unit"),
        ({"audio": "a", "unitA": "1 2", "unitA.durations": "3"}, "row a, unitA: 2 units, but 1 durations"),
        ({"audio": "a", "unitA": "1 2", "unitA.durations": "3 x"}, "row a, unitA.durations: unit 'x'"),
        ({"audio": "a", "unitA": "1 2", "unitA.durations": "30 21"}, "row a: the prompt lasts for 51 frames, 50 are"),
        ({"audio": "a", "unitA": " ".join(["1", "2"] * 30)}, "the prompt has 60 frames"),
    ],
)
def test_bad_prompts_are_one_line_before_anything_is_continued(row: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"audio": "good", "unitA": "1 2"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=message):
        continue_unit_file(timed_model(), path, tmp_path / "out.jsonl", replace(SAMPLING, max_frames=50), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


@pytest.mark.parametrize("field", [{"deduplicated": True}, {"unitA.durations": "3 4"}, {"unitB.durations": "3 4"}])
def test_runs_are_not_taken_for_the_frames_of_a_dialogue(field: dict[str, Any]) -> None:
    """Channels of runs are seconds apart: a model of dialogues refuses them, in commands and in Python."""
    dialogue = {"audio": "a", "unitA": "1 2", "unitB": "3 4", "deduplicated": False}
    assert channel_texts(dialogue, ["unitA", "unitB"], "row a") == ["1 2", "3 4"]
    with pytest.raises(InputError, match="row a: its units are deduplicated, expected one for each frame: .*--expand"):
        channel_texts({**dialogue, **field}, ["unitA", "unitB"], "row a")
