"""Text channels and batches of duplex models, beside what the public code makes."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from speechdlm_ext.codecs import build_codec
from speechdlm_ext.data import DataModule
from speechdlm_ext.data.duplex_cuts import read_cuts
from speechdlm_ext.data.duplex_dataset import DuplexCuts, DuplexS2SDataset
from speechdlm_ext.data.text_channel import TextIds, Turn, build_token_channel, strip_timestamps
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import write_audio
from tests.helpers.duplex import write_config

REFERENCE = Path(__file__).parent / "reference/nemo/speechlm"
CHANNEL = json.loads((REFERENCE / "token_channel.json").read_text())


class Letters:
    """A tokenizer of single letters."""

    bos_id, eos_id, pad_id = 1, 2, 0

    def text_to_ids(self, text: str) -> list[int]:
        """An id for each letter."""
        return [ord(letter) for letter in text]


def _turns(case: dict) -> list[Turn]:
    return [Turn(s["start"], s["duration"], s["text"], s["speaker"]) for s in case["supervisions"]]


def _ids(case: dict) -> TextIds:
    by_text = {s["text"]: s["text_ids"] for s in case["supervisions"]}
    return TextIds(by_text.__getitem__, CHANNEL["bos"], CHANNEL["eos"], CHANNEL["pad"])


@pytest.mark.parametrize("case", CHANNEL["cases"], ids=lambda case: case["case"])
def test_text_channel_is_the_published_one(case):
    made = build_token_channel(case["duration"], _turns(case), ["agent"], _ids(case))
    assert made.tokens.tolist() == case["tokens"]


def test_every_lost_token_is_counted():
    lost = {
        case["case"]: build_token_channel(case["duration"], _turns(case), ["agent"], _ids(case)).lost
        for case in CHANNEL["cases"]
    }
    # By hand: EOS over one token; 6 behind the end; a turn that is not inside; BOS and a word over two tokens.
    assert lost["plain"] == 0
    assert lost["text longer than turn: end token lands inside the text"] == 1
    assert lost["text longer than the recording"] == 6
    assert lost["starts after the end"] == 1
    assert lost["overlapping turns: the later one in the list overwrites"] == 2


def test_text_can_end_with_its_turn():
    ids = TextIds(lambda text: [ord(letter) for letter in text], 1, 2, 0)
    made = build_token_channel(0.8, [Turn(0.16, 0.24, "abcd", "agent")], ["agent"], ids, cut_at_turn_end=True)
    assert made.tokens.tolist() == [0, 0, 1, 97, 98, 2, 0, 0, 0, 0]
    assert made.lost == 2 and "abcd" in made.notes[0]


@pytest.mark.parametrize(("text", "plain"), CHANNEL["strip_timestamps"].items())
def test_time_stamps_are_stripped(text, plain):
    assert strip_timestamps(text) == plain


def test_batch_of_lhotse_cuts():
    cuts = read_cuts(REFERENCE / "cuts.jsonl")[1:]
    batch = DuplexS2SDataset(Letters())[cuts]
    assert batch["source_audio"].shape == (1, 51200) and batch["target_audio_lens"].tolist() == [70560]
    assert batch["target_texts"] == ["four two is next"]
    text = batch["target_tokens"][0].tolist()
    assert text[13:19] == [1, *map(ord, "four"), 0] and text[22] == 2
    assert text[33:40] == [1, *map(ord, "two is")]  # the rest has no frames
    assert batch["source_tokens"][0, :6].tolist() == [1, *map(ord, "four"), 0]


def _stereo(folder, rows, seconds=1.0):
    wave = torch.zeros(2, round(16000 * seconds))
    wave[1] = 0.5 * (-1.0) ** torch.arange(wave.size(1))
    write_audio(folder / "a.wav", wave, 16000)
    path = folder / "cuts.jsonl"
    path.write_text("".join(json.dumps({"audio_filepath": "a.wav", **row}) + "\n" for row in rows))
    return path


def _turn(start, duration, speaker="agent"):
    return {"start": start, "duration": duration, "text": "hi", "speaker": speaker}


def test_stereo_file_and_parts_of_it(tmp_path):
    rows = [{"id": "a"}, {"id": "b", "agent_channel": 0, "offset": 0.5, "duration": 0.4}]
    first, second = read_cuts(_stereo(tmp_path, rows))
    maker = DuplexS2SDataset(Letters(), target_sample_rate=8000)
    assert maker.load(first)["source_audio"].abs().max() == 0
    assert maker.load(first)["target_audio"].shape == (8000,)
    assert torch.allclose(maker.load(second)["source_audio"].abs(), torch.tensor(0.5), atol=1e-4)
    assert len(maker.load(second)["target_tokens"]) == 5


def test_codes_instead_of_sound(tmp_path):
    rows = [{"codec": ["1 2 3", "4 5 6"], "codec_rate": 12.5}, {"codec": ["7", "8"], "codec_rate": 12.5}]
    dataset = DuplexCuts(_stereo(tmp_path, rows), DuplexS2SDataset(Letters()))
    batch = dataset.collater([dataset[1], dataset[0]])["net_input"]["batch"]
    assert batch["target_codes"].tolist() == [[[1, 4], [2, 5], [3, 6]], [[7, 8], [0, 0], [0, 0]]]
    assert "target_audio" not in batch and batch["target_codes_lens"].tolist() == [3, 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"supervisions": [_turn(0.5, 0.7)]}, "from 0.5 to 1.2 s, the recording from 0 to 1 s"),
        ({"supervisions": [_turn(0.1, 0.5), _turn(0.4, 0.3)]}, "overlap"),
        ({"supervisions": [{"start": "x"}]}, "expected seconds"),
        ({"audio_filepath": ["a.wav"]}, "audio_filepath"),
        ({"codec": ["1", "2 3"], "codec_rate": 12.5}, "1, 2 codes"),
        ({"codec": "1 a", "codec_rate": 12.5}, "line 1: codec: unit 'a': a number"),
        ({"codec": 5, "codec_rate": 12.5}, "line 1: codec: "),
        ({"codec": "1", "codec_rate": "x"}, "codec_rate is 'x', expected a number"),
        ({"codec": "1", "codec_rate": -2}, "codec_rate -2: frames per second"),
        ({"sample_rate": 8000}, "16000 Hz"),
        ({"recording": {"id": "x"}}, "sources"),
    ],
)
def test_bad_conversations_are_refused_in_one_line(tmp_path, row, message):
    path = _stereo(tmp_path, [row])
    with pytest.raises(InputError, match=message) as error:
        dataset = DuplexCuts(path, DuplexS2SDataset(Letters()))
        dataset[0]
    assert "\n" not in str(error.value)


def test_codes_of_another_codec_or_length_are_refused_in_one_line(tmp_path):
    write_config(tmp_path)
    codec = build_codec(f"units:{tmp_path / 'codebook.safetensors'}")
    cases = [
        ("1 " * 50, 50, None),
        ("1 " * 50, 25, "codec has 1 codebooks at 25 Hz .* the model's has 1 at 50 Hz"),
        ("99 " * 50, 50, "codes up to 99, .* codes below 9"),
        ("1 2 3", 50, r"codec has 3 codes, 0.06 s, the recording is 1 s"),
        ("1 " * 100, 50, r"codec has 100 codes, 2 s, the recording is 1 s"),
    ]
    for codes, rate, message in cases:
        path = _stereo(tmp_path, [{"codec": codes, "codec_rate": rate}])
        with pytest.raises(InputError, match=message) if message else nullcontext():
            DuplexCuts(path, DuplexS2SDataset(Letters(), codec=codec))


def test_a_missing_target_is_refused_for_training_only(tmp_path):
    write_audio(tmp_path / "mono.wav", torch.zeros(1, 16000), 16000)
    (tmp_path / "cuts.jsonl").write_text(json.dumps({"audio_filepath": "mono.wav"}))
    cut = read_cuts(tmp_path / "cuts.jsonl")[0]
    with pytest.raises(InputError, match="no sound of the agent"):
        DuplexS2SDataset(Letters()).load(cut)
    assert "target_audio" not in DuplexS2SDataset(Letters(), needs_target=False)[[cut]]


def test_turns_of_the_user_may_overlap_the_agents(tmp_path):
    path = _stereo(tmp_path, [{"supervisions": [_turn(0, 0.5), _turn(0.2, 0.5, "user"), _turn(0.3, 0.4, "user")]}])
    assert DuplexCuts(path, DuplexS2SDataset(Letters())).sizes.tolist() == [13]


def test_lost_text_is_said(tmp_path, caplog):
    turn = {**_turn(0.8, 0.16), "text": "a long answer"}
    DuplexCuts(_stereo(tmp_path, [{"supervisions": [turn]}]), DuplexS2SDataset(Letters()))
    assert "of the 13 tokens of 'a long answer'" in caplog.text


def test_named_sets_and_batches_by_seconds_and_frames(tmp_path):
    rows = [
        {"id": str(number), "offset": 0.0, "duration": 0.4 + 0.1 * (number % 3), "codec": "1 2", "codec_rate": 12.5}
        for number in range(12)
    ]
    _stereo(tmp_path, rows)
    source = {"input_cfg": [{"type": "lhotse_as_conversation", "cuts_path": "cuts.jsonl"}]}
    config = {
        "train_ds": {**source, "batch_duration": 2.0, "seed": 3},
        "validation_ds": {
            "batch_size": 5,
            "datasets": {"near": source, "far": {"cuts_path": "cuts.jsonl", "batch_tokens": 8}},
        },
    }
    module = DataModule(config, Letters(), DuplexS2SDataset(Letters()), tmp_path)
    first, second = list(module.train_dataloader(1)), list(module.train_dataloader(2))
    assert sum(len(batch["target_texts"]) for batch in first) == 12
    assert all(batch["target_tokens"].numel() * 0.08 <= 2.0 for batch in first)
    assert [batch["target_tokens"].shape for batch in first] != [batch["target_tokens"].shape for batch in second]
    found = {name: list(batches) for name, batches in module.val_dataloader().items()}
    assert [len(batch["target_texts"]) for batch in found["near"]] == [5, 5, 2]
    assert len(found["far"]) == 12
