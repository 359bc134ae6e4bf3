"""Sampling from Python: forms of input, one given channel, and what is refused."""

from __future__ import annotations

import json
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.errors import InputError
from speechdlm_ext.hub import DialogueModel, load_speech_dlm
from speechdlm_ext.hub.sampling import FrameProgress
from tests.helpers.dialogue_checkpoints import toy_lines, write_checkpoint

PROMPT = {"unitA": "7 7 8 9 9", "unitB": "1 2 2 2 0"}


@pytest.fixture(scope="module")
def model(toy: Path) -> DialogueModel:
    return load_speech_dlm(toy)


def test_the_published_example_runs_as_written(reference: Path) -> None:
    import speechdlm_ext  # noqa: F401

    # isort: split
    from fairseq.models.speech_dlm import SpeechDLM

    speech_dlm = SpeechDLM.from_pretrained(
        model_name_or_path=str(reference / "A"),
        checkpoint_file="model.pt",
        data_name_or_path=str(reference / "bin"),
    )
    speech_dlm.eval()
    if torch.cuda.is_available():
        speech_dlm.cuda()
    input_sequences = [
        {
            "unitA": "7 376 376 133 178 486 486 486 486 486 486 486 486 2 486",
            "unitB": "7 499 415 177 7 7 7 7 7 7 136 136 289 289 408",
        }
    ]
    kinds = len((reference / "A" / "dict.unitA.txt").read_text().splitlines())  # 20 or 500
    for channel, units in input_sequences[0].items():
        input_sequences[0][channel] = " ".join(str(int(unit) % kinds) for unit in units.split())
    length = 60 if kinds == 20 else 500
    generated_units = speech_dlm.sample(input_sequences, max_len_a=0, max_len_b=length, sampling=True, beam=5)
    (units,) = generated_units
    for channel, prompt in input_sequences[0].items():
        assert units[channel].startswith(prompt + " ") and len(units[channel].split()) == length
        assert all(0 <= int(unit) < kinds for unit in units[channel].split())
    ids = speech_dlm.encode(input_sequences[0])
    assert ids.shape == (15, 2) and speech_dlm.decode(ids) == input_sequences[0]


def test_the_answer_has_the_form_of_the_question(model: DialogueModel) -> None:
    options: dict[str, Any] = {"max_len_b": 20, "sampling": True, "seed": 4}
    ids = model.encode(PROMPT)
    one = model.sample(PROMPT, **options)
    assert list(one) == ["unitA", "unitB"] and len(one["unitA"].split()) == 20
    tensor = model.sample(ids, **options)
    assert tensor.shape == (20, 2) and model.decode(tensor) == one
    assert model.sample([PROMPT, PROMPT], **options)[0] == one
    mixed = model.sample([ids, PROMPT], **options)
    assert torch.equal(mixed[0], tensor) and mixed[1] == model.sample([PROMPT, PROMPT], **options)[1]
    assert torch.equal(model.sample(ids[None].to(torch.int32), **options)[0], tensor)
    assert model.sample([], **options) == []


def test_rows_of_unit_files_are_prompts_and_options_have_fairseqs_names(model: DialogueModel) -> None:
    row = {"audio": "call-1", "speaker": 3, **PROMPT}
    search: dict[str, Any] = {"max_len_b": 9, "beam": 3}
    assert model.sample(row, **search) == model.sample(PROMPT, lenpen=1.0, unnormalized=False, **search)
    assert model.sample(PROMPT, prompt_frames=2, **search) == model.sample({"unitA": "7 7", "unitB": "1 2"}, **search)


def test_verbose_logs_every_hypothesis(model: DialogueModel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    quiet = model.sample(PROMPT, beam=3, sampling=True, max_len_b=8)
    assert not [r for r in caplog.messages if r.startswith(("S\t", "H\t"))]
    assert model.sample(PROMPT, 3, True, sampling=True, max_len_b=8) == quiet
    lines = [r.split("\t") for r in caplog.messages if r.startswith(("S\t", "H\t"))]
    assert [line[0] for line in lines] == ["S", "H", "H", "H"]
    assert lines[0][1] == "7 7 8 9 9 | 1 2 2 2 0" and lines[1][2] == f"{quiet['unitA']} | {quiet['unitB']}"
    assert [float(line[1]) for line in lines[1:]] == sorted((float(line[1]) for line in lines[1:]), reverse=True)


# --- one channel given -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [True, False])
def test_a_given_channel_is_the_published_convention(model: DialogueModel, sampling: bool) -> None:
    full = model.decode(toy_lines(2, [30])[0])
    start = full["unitB"].split()[:6]
    options: dict[str, Any] = {"sampling": sampling, "seed": 9, "beam": 2}
    found = model.sample({"unitA": full["unitA"], "unitB": " ".join(start)}, condition_on="unitA", **options)
    published = {"unitA": full["unitA"], "unitB": " ".join(start + ["<pad>"] * 24)}
    assert found == model.sample(published, max_len_b=30, **options)
    assert found["unitA"] == full["unitA"] and found["unitB"].split()[:6] == start
    assert len(found["unitB"].split()) == 30 and found["unitB"] != full["unitB"]
    # The same from the whole dialogue, of which the others' prompt is kept; and from ids.
    assert found == model.sample(full, condition_on="unitA", prompt_frames=6, **options)
    ids = model.sample(model.encode(full), condition_on="unitA", prompt_frames=6, **options)
    assert model.decode(ids) == found


def test_what_is_drawn_follows_the_given_channel(model: DialogueModel) -> None:
    given_units = toy_lines(2, [40])[0]
    other = given_units.clone()
    other[20:, 0] = 4 + (other[20:, 0] - 4 + 3) % 20
    drawn = [
        model.sample(units, condition_on="unitA", prompt_frames=5, sampling=True)[:, 1]
        for units in (given_units, other)
    ]
    assert torch.equal(drawn[0][:21], drawn[1][:21])  # a frame is drawn before the given one of the same time is heard
    assert not torch.equal(drawn[0], drawn[1])


def test_after_the_given_channels_end_all_go_on_where_more_is_asked(model: DialogueModel) -> None:
    dialogue = {"unitA": "7 7 8 9 9", "unitB": "1"}
    found = model.sample(dialogue, condition_on="unitA", sampling=True, max_len_b=12)
    assert found["unitA"].startswith("7 7 8 9 9 ") and [len(t.split()) for t in found.values()] == [12, 12]
    nothing = {"unitA": "7 7 8 9 9", "unitB": ""}
    assert len(model.sample(nothing, condition_on="unitA")["unitB"].split()) == 5


def test_given_channels_of_three(tmp_path: Path) -> None:
    three = load_speech_dlm(write_checkpoint(tmp_path, channels=3))
    dialogue = {"unitA": "1", "unitB": "7 7 8 9 9 3 3", "unitC": "4 4 4"}
    found = three.sample(dialogue, condition_on="unitB", sampling=True)
    assert found["unitB"] == dialogue["unitB"] and found["unitC"].startswith("4 4 4 ")
    assert all(len(text.split()) == 7 for text in found.values())


@pytest.mark.parametrize(
    ("dialogue", "options", "message"),
    [
        (PROMPT, {"condition_on": "unitC"}, r"condition_on unitC: no such channel; .*unitA, unitB"),
        (PROMPT, {"condition_on": "unitA"}, "all 5 frames of every channel are given"),
        ({"unitA": "7", "unitB": "1 2"}, {"condition_on": "unitA"}, "2 units in unitB, 1 in unitA, which is given"),
        (PROMPT, {"condition_on": "unitA", "prompt_frames": 6}, "5 frames, 6 are expected for the prompt"),
        ({"unitA": "7 7 7", "unitB": "1"}, {"condition_on": "unitA", "max_len_b": 2}, "the prompt has 3 frames"),
    ],
)
def test_what_cannot_be_given(model: DialogueModel, dialogue: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.sample(dialogue, **options)


def run_script(monkeypatch: pytest.MonkeyPatch, checkout: Path, *arguments: Any) -> int | None:
    """The status of scripts/sample_speech_dlm.py, run in this process."""
    monkeypatch.setattr(sys, "argv", [str(part) for part in ("sample_speech_dlm.py", *arguments)])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(checkout / "scripts" / "sample_speech_dlm.py"), run_name="__main__")
    return done.value.code  # type: ignore[return-value]


def test_the_script_continues_beside_a_given_channel(
    model: DialogueModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkout: Path
) -> None:
    rows = [{"audio": f"d{i}", **model.decode(line)} for i, line in enumerate(toy_lines(2, [30, 12, 30]))]
    rows[2]["unitB"] = " ".join(rows[2]["unitB"].split()[:8])  # given no further
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model.save_pretrained(tmp_path / "saved")
    files = ["--in-file", tmp_path / "in.jsonl", "--out-file", tmp_path / "out.jsonl", "--ckpt", tmp_path / "saved"]
    options = ["--condition-on", "unitA", "--prompt-frames", 4, "--device", "cpu", "--beam-size", 2, "--sampling"]
    assert not run_script(monkeypatch, checkout, *files, *options)
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for i, (row, out) in enumerate(zip(rows, written, strict=True)):
        expected = model.sample(row, condition_on="unitA", prompt_frames=4, sampling=True, beam=2, seed=[(123, i, 0)])
        assert {channel: out[channel] for channel in expected} == expected
        assert out["unitA"] == row["unitA"] and out["prompt_frames"] == 4 and out["audio"] == f"d{i}"


def test_the_script_explains_what_it_refuses(
    toy: Path,
    model: DialogueModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkout: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"audio": f"d{i}", "unitA": "7 7 8", "unitB": units} for i, units in enumerate(("1 2 2", "1 2 55"))]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "one.jsonl").write_text(json.dumps(rows[0]) + "\n")
    refused = {
        ("in.jsonl",): "dialogue d1: unit 55 of unitB is not in dict.unitB.txt",
        ("one.jsonl", "--no-slide", "--max-len-b", "100"): "the model's window has 64",
        ("one.jsonl", "--condition-on", "unitC"): "condition_on unitC: no such channel",
        ("one.jsonl", "--condition-on", "unitA"): "nothing is left to continue",
        ("one.jsonl", "--sampling-topp", "1.5"): "--sampling-topp 1.5: a number above 0 and up to 1 is expected",
        ("one.jsonl", "--temperature", "nan"): "--temperature nan: a number above 0 is expected",
        ("one.jsonl", "--max-len-b", "2"): "the prompt has 3 frames",
    }
    for (name, *options), message in refused.items():
        files = ["--in-file", tmp_path / name, "--out-file", tmp_path / "out.jsonl", "--ckpt", toy / "model.pt"]
        assert run_script(monkeypatch, checkout, *files, "--device", "cpu", "--batch-size", 1, *options) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("sample_speech_dlm.py: error: ") and message in last
        assert not (tmp_path / "out.jsonl").exists()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialogue", "message"),
    [
        ({"unitA": "7 500", "unitB": "1 2"}, r"dialogue 1: unit 500 of unitA is not in dict\.unitA\.txt \(20 units\)"),
        ({"unitA": "7 7", "unitB": "1 x"}, "unit x of unitB"),
        ({"unitA": "7 </s>", "unitB": "1 2"}, "unit </s> of unitA"),
        ({"unitA": "7 7"}, r"channel unitB is missing, found unitA; the model's channels are unitA, unitB"),
        ({"unitA": "7 7", "unit_B": "1 2"}, "channel unitB is missing, found unitA, unit_B"),
        ({"unitA": "7", "unitB": "1", "unitC": "3"}, "channel unitC is one too many"),
        ({"unitA": "7 7 7", "unitB": "1 2"}, "equally many units, found 3 in unitA, 2 in unitB"),
        ({"unitA": [7, 7], "unitB": "1 2"}, "unitA is list, text is expected"),
        (torch.tensor([[4, 5], [24, 5]]), r"id 24 in unitA is no unit of dict\.unitA\.txt: .* 4 to 23"),
        (torch.tensor([[4, 2]]), "id 2 in unitB is no unit"),
        (torch.tensor([[4, 5, 6]]), r"a tensor \(1, 3\) of torch\.int64, ids \(frames, 2\) expected"),
        (torch.ones(2, 2), r"a tensor \(2, 2\) of torch\.float32"),
        ("7 7", "dialogues: str, a dictionary"),
        (["7 7"], "dialogue 1: str, a dictionary"),
        (torch.tensor([4, 5]), r"dialogues: Tensor of shape \(2,\)"),
    ],
)
def test_prompts_that_the_model_cannot_take(model: DialogueModel, dialogue: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.sample(dialogue, max_len_b=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0, "sampling": True}, "--temperature 0.0: a number above 0"),
        ({"temperature": -1}, "--temperature -1"),
        ({"temperature": math.nan}, "--temperature nan"),
        ({"sampling_topp": 1.01, "sampling": True}, "--sampling-topp 1.01: a number above 0 and up to 1"),
        ({"sampling_topp": 0, "sampling": True}, "--sampling-topp 0"),
        ({"sampling_topp": math.nan, "sampling": True}, "--sampling-topp nan"),
        ({"max_len_b": 64, "slide": False}, "the model's window has 64"),
        ({"max_len_b": 4}, "the prompt has 5 frames"),
        ({"top_p": 0.9}, "top_p: no option of sampling; there are sampling_topp, sampling_topk, beam"),
        ({"seed": [1, 2]}, "seed: 2 numbers for 1 dialogues"),
    ],
)
def test_options_that_are_refused(model: DialogueModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.sample(PROMPT, **{"max_len_b": 20, **options})


def test_a_prompt_longer_than_the_window_is_refused_where_sliding_is_off(model: DialogueModel) -> None:
    long = toy_lines(2, [70])[0]
    assert len(model.sample(long, max_len_b=75)) == 75
    with pytest.raises(InputError, match=r"frames are asked for, the model's window has 64 .* or let the window slide"):
        model.sample(long, max_len_b=75, slide=False)


# --- progress --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 12)), min_size=1, max_size=6))
def test_progress_never_goes_back_and_ends_at_all_frames(prompts: list[tuple[int, int]]) -> None:
    limits = [length + more for length, more in prompts]
    told: list[int] = []
    with FrameProgress(limits, told.append) as report:
        for limit in sorted(set(limits)):  # as the generator goes about it
            known = min(length for (length, _), own in zip(prompts, limits, strict=True) if own == limit)
            for frame in range(known + 1, limit + 1):
                report(frame)
                assert sum(told) <= sum(limits)
    assert min(told) > 0 and sum(told) == sum(limits)
