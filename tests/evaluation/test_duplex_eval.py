"""scripts/duplex_eval.py on a tiny model: the folders of Full-Duplex-Bench, and what a recogniser understands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from speechdlm_ext.data.duplex_cuts import read_cuts
from speechdlm_ext.data.duplex_dataset import DuplexS2SDataset
from speechdlm_ext.errors import InputError
from speechdlm_ext.evaluation.duplex import converse
from speechdlm_ext.hub.duplex import DuplexS2SModel
from speechdlm_ext.io.audio import audio_info
from tests.helpers.commands import run_command
from tests.helpers.duplex import write_config, write_conversations

pytestmark = pytest.mark.commands


def test_the_sound_is_recognised_and_read_again(tmp_path: Path, checkout: Path) -> None:
    config = json.loads(write_config(tmp_path).read_text())
    torch.manual_seed(3)
    DuplexS2SModel(config, tmp_path).save_pretrained(tmp_path / "model")
    (tmp_path / "model/codebook.safetensors").write_bytes((tmp_path / "codebook.safetensors").read_bytes())
    data, said = write_conversations(tmp_path, "test", 2), tmp_path / "said"
    command = ["python", checkout / "scripts/duplex_eval.py", data, "--checkpoint", tmp_path / "model", "--int8"]
    done = run_command([*command, "--output", said, "--asr", "pocketsphinx", "--device", "cpu"])
    found = json.loads((said / "figures.json").read_text())
    assert {"asr_bleu", "asr_wer", "text_wer"} <= set(found) and "asr_wer" in done.stdout
    rows = [json.loads(line) for line in (said / "turns.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["test0", "test1"] and all(isinstance(row["heard"], str) for row in rows)
    for row in rows:  # at the same time, and of the same length
        sides = [audio_info(said / row["id"] / name).duration for name in ("input.wav", "output.wav")]
        assert sides == [1.6, 1.6]
    evaluate = ["python", checkout / "scripts/evaluate_dialogue.py", said, "--vad", "energy", "--num-workers", "1"]
    run_command([*evaluate, "--output", tmp_path / "evaluated"])
    assert '"take_over_rate"' in next((tmp_path / "evaluated").glob("*.json")).read_text()


def test_all_conversations_are_checked_first_and_stay_in_their_folder(tmp_path: Path) -> None:
    model = DuplexS2SModel(json.loads(write_config(tmp_path).read_text()), tmp_path).eval()
    maker = DuplexS2SDataset(model.tokenizer, 0.08, 16000, model.target_sample_rate, needs_target=False)
    first, second = map(json.loads, write_conversations(tmp_path, "test", 2).read_text().splitlines())
    beyond = {**second["supervisions"][1], "start": 1.5}
    cases = [
        ([first, {**second, "supervisions": [beyond]}], "line 2: the supervision .* the recording from 0 to 1.6 s"),
        ([{**first, "id": "a/b"}, {**second, "id": "a_b"}], "line 2: id a_b: the same name as .*line 1"),
    ]
    for rows, message in cases:
        (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(InputError, match=message):
            converse(model, read_cuts(tmp_path / "bad.jsonl"), tmp_path / "said", maker)
        assert not (tmp_path / "said").exists()
    (tmp_path / "up.jsonl").write_text(json.dumps({**first, "id": "../../up"}) + "\n")
    converse(model, read_cuts(tmp_path / "up.jsonl"), tmp_path / "said", maker)
    assert sorted(path.name for path in (tmp_path / "said" / "up").iterdir()) == ["input.wav", "output.wav"]


def test_a_recording_that_is_not_there_is_one_line(tmp_path: Path, checkout: Path) -> None:
    data = write_conversations(tmp_path, "test", 1)
    (tmp_path / "audio/test0.wav").unlink()
    command = ["python", checkout / "scripts/duplex_eval.py", data, "--checkpoint", tmp_path / "none"]
    done = run_command([*command, "--output", tmp_path / "said"], check=False)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "test0.wav" in done.stderr
    assert not (tmp_path / "said").exists()
