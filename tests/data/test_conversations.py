"""Conversations read from all their forms, as tokens and batches; bucketing; bad lines."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechdlm_ext.data import DataModule, SALMDataset
from speechdlm_ext.data.conversations import Audio, iter_conversations
from speechdlm_ext.data.llm_tokenizer import load_tokenizer
from speechdlm_ext.data.prompts import Turn, encode_dialog, read_prompt
from speechdlm_ext.data.salm_dataset import ConversationDataset
from speechdlm_ext.data.splicing import IGNORED
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import write_audio
from tests.helpers.salm_models import TAG, write_conversations, write_llm

REFERENCE = Path(__file__).parent / "reference" / "nemo" / "speechlm"
SAID = json.loads((REFERENCE / "formatted.json").read_text())


@pytest.fixture(scope="module")
def tokenizer():
    found = load_tokenizer(REFERENCE / "llm")
    found.add_special_token(TAG)
    return found


@pytest.fixture
def folder(tmp_path):
    """Sound of the lengths of the reference's, whose content its tokens do not depend on."""
    (tmp_path / "audio").mkdir()
    for name, samples in (("c0", 71931), ("c1", 53907), ("c2", 30394)):
        write_audio(tmp_path / "audio" / f"{name}.flac", torch.full((samples,), 0.1), 16000)
    (tmp_path / "conversations.jsonl").write_text((REFERENCE / "conversations.jsonl").read_text())
    return tmp_path


def test_tokens_and_masks_are_those_of_the_public_code(tokenizer, folder):
    found = list(iter_conversations(folder / "conversations.jsonl", TAG))
    for one, said in zip(found, SAID["formatted"], strict=True):
        ids, mask = encode_dialog(tokenizer, one.turns, "llama2")
        assert (one.id, ids, [int(value) for value in mask]) == (said["id"], said["input_ids"], said["mask"])
    for prompt, ids in zip(SAID["prompts"], SAID["prompt_ids"], strict=True):
        assert encode_dialog(tokenizer, read_prompt(prompt), "llama2")[0] == ids


def test_a_batch_is_that_of_the_public_code(tokenizer, folder):
    batch = SALMDataset(tokenizer=tokenizer, audio_locator_tag=TAG)[
        list(iter_conversations(folder / "conversations.jsonl", TAG))
    ]
    # The public code takes the second, all of a recording of which the fourth is a part, for that part.
    assert SAID["audio_lens"][1] == SAID["audio_lens"][3] == 19200
    assert batch["audio_lens"].tolist() == [53907, 30394, 24000, 19200, 16000]
    assert batch["input_ids"].shape == batch["loss_mask"].shape == (3, 48)
    for row, said in zip(batch["input_ids"].tolist(), SAID["formatted"], strict=True):
        assert row == [0] * (48 - len(said["input_ids"])) + said["input_ids"]


def test_sharegpt_manifests_and_cuts_are_conversations(folder):
    rows = [
        {"id": "s", "sound": "audio/c1.flac", "duration": 3.369,
         "conversations": [{"from": "human", "value": "<sound>\nwhich digits?"}, {"from": "gpt", "value": "eight"}]},
        {"audio_filepath": "audio/c2.flac", "offset": 0.5, "duration": 1.0, "text": "being", "context": "repeat:"},
        {"id": "cut", "start": 0.25, "duration": 2.0, "recording": {"sources": [{"type": "file", "channels": [0],
         "source": "audio/c0.flac"}], "sampling_rate": 16000}, "supervisions": [{"text": "four"}, {"text": "five"}]},
        {"audio_filepath": "audio/c2.flac", "text": "x", "_skipme": True},
    ]  # fmt: skip
    path = folder / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    share, manifest, cut = iter_conversations(path, TAG, context="transcribe:", system_prompt="be brief")
    assert share.turns == [Turn("system", "be brief"), Turn("user", f"{TAG} which digits?"), Turn("assistant", "eight")]
    assert manifest.turns[1:] == [Turn("user", f"repeat: {TAG}"), Turn("assistant", "being")]
    assert (manifest.audios[0].offset, len(manifest.audios[0].read(16000))) == (0.5, 16000)
    assert cut.turns[1:] == [Turn("user", f"transcribe: {TAG}"), Turn("assistant", "four five")]
    assert cut.as_prompt()[1] == {"role": "user", "content": f"transcribe: {TAG}"} and cut.answer == "four five"


def test_sound_of_another_rate_is_resampled_and_what_is_no_number_is_said(tmp_path):
    tone = torch.sin(torch.arange(8000) * 2 * torch.pi * 440 / 8000)[None] * 0.5
    write_audio(tmp_path / "a.wav", tone, 8000)
    expected = torch.sin(torch.arange(16000) * 2 * torch.pi * 440 / 16000) * 0.5
    read = Audio(str(tmp_path / "a.wav"), 0.0, 1.0).read(16000)
    torch.testing.assert_close(read[800:-800], expected[800:-800], atol=2e-3, rtol=0)
    soundfile.write(tmp_path / "nan.wav", np.full(8000, np.nan, np.float32), 8000, subtype="FLOAT")
    with pytest.raises(InputError, match="nan.wav"):
        Audio(str(tmp_path / "nan.wav"), 0.0, 1.0).read(16000)
    with pytest.raises(InputError, match="a.wav: ends 0.50 s before 1.5 s"):
        Audio(str(tmp_path / "a.wav"), 0.5, 1.0).read(16000)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "hello"}, "neither conversations, nor audio_filepath, nor recording"),
        ({"audio_filepath": "no.wav", "duration": 1.0}, "no.wav: no such file"),
        ({"audio_filepath": "audio/c2.flac", "duration": -1.0}, "expected seconds of some audio"),
        ({"conversations": []}, "without turns"),
        ({"conversations": [{"value": "hi"}]}, "not a conversation"),
        ({"conversations": [{"from": "user", "value": f"hi {TAG}"}]}, "1 placeholders .* for 0 audios"),
        ({"recording": {"sources": [{"type": "command", "source": "rm x"}]}, "duration": 1}, "no file: command"),
    ],
)
def test_bad_lines_are_named(folder, row, message):
    path = folder / "bad.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=f"bad.jsonl, line 1: .*{message}"):
        list(iter_conversations(path, TAG))


@pytest.mark.parametrize("name", ["llama2", "llama3", "qwen", "gemma", "mistral", "plain"])
def test_a_prompt_is_the_beginning_of_what_is_trained_on(tokenizer, name):
    turns = [Turn("system", "be brief"), Turn("user", "hi {text}"), Turn("assistant", "yes"), Turn("user", "so")]
    prompt, none = encode_dialog(tokenizer, turns, name)
    ids, mask = encode_dialog(tokenizer, [*turns, Turn("assistant", "no")], name)
    assert ids[: len(prompt)] == prompt and all(mask[len(prompt) :]) and mask[: len(prompt)] == none
    answers = [token for token, trained in zip(ids, mask, strict=True) if trained]
    assert tokenizer.ids_to_text(answers).replace(" ", "").startswith("yes")


def test_a_chat_template_of_the_tokenizer(tokenizer):
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    tokenizer.tokenizer.chat_template = template + "{% if add_generation_prompt %}<assistant>{% endif %}"
    turns = [Turn("user", "hi"), Turn("assistant", "yes")]
    prompt, _ = encode_dialog(tokenizer, turns[:1], "chat")
    ids, mask = encode_dialog(tokenizer, turns, "chat")
    assert ids[: len(prompt)] == prompt and mask == [False] * len(prompt) + [True] * (len(ids) - len(prompt))
    tokenizer.tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        encode_dialog(tokenizer, turns, "chat")


def test_roles_and_formats_are_checked(tokenizer):
    with pytest.raises(InputError, match="role robot"):
        read_prompt([{"role": "robot", "content": "hi"}])
    with pytest.raises(InputError, match="turn without text"):
        read_prompt([{"role": "user"}])
    with pytest.raises(InputError, match="prompt_format t5: expected one of llama2"):
        encode_dialog(tokenizer, [Turn("user", "hi")], "t5")


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones")
    write_llm(folder)
    for split, count in (("train", 30), ("valid", 5)):
        write_conversations(folder, split, count)
    return folder


def test_batches_keep_to_seconds_and_positions(tones):
    collate = SALMDataset(load_tokenizer(tones), TAG)
    found = list(iter_conversations(tones / "train.jsonl", TAG))
    data = ConversationDataset(found, collate, batch_seconds=2.0, shuffle=True)
    batches = data.batch_by_size(data.ordered_indices(), max_tokens=80, max_sentences=6)
    assert sorted(np.concatenate(batches)) == list(range(30))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * data.seconds[batch].max() <= 2.0
        assert len(batch) == 1 or len(batch) * data.sizes[batch].max() <= 80
    sample = data.collater([data[index] for index in batches[0]])
    assert sample["net_input"]["audios"].dtype == torch.int32
    assert sample["ntokens"] == int(sample["net_input"]["layout"]["target"].ne(IGNORED).sum())
    answers = zip(sample["answers"], sample["answer_lens"], strict=True)
    words = [sample["words"][row[:count] - 1].tolist() for row, count in answers]
    assert [collate.tokenizer.ids_to_text(row) for row in words] == [found[i].answer for i in batches[0]]


def test_what_cannot_be_trained_on_is_said(tones):
    collate = SALMDataset(load_tokenizer(tones), TAG)
    found = list(iter_conversations(tones / "train.jsonl", TAG))
    assert ConversationDataset(found, collate, longest=20).skipped > 0
    with pytest.raises(InputError, match="at most 3 positions"):
        ConversationDataset(found, collate, longest=3)
    with pytest.raises(InputError, match="no assistant's turn"):
        ConversationDataset([found[0].without_answer()], collate)
    short = replace(found[0], id="q", audios=[replace(found[0].audios[0], duration=0.01)])
    with pytest.raises(InputError, match=r"conversation q: .*train0.wav: 0.01 s, not one frame"):
        ConversationDataset([short], collate, lambda samples: samples // 1280)
    (tones / "none.jsonl").write_text(json.dumps({"audio_filepath": "a.wav", "_skipme": True}) + "\n")
    with pytest.raises(InputError, match="none.jsonl: no conversations"):
        list(iter_conversations(tones / "none.jsonl", TAG))


def test_the_data_module_reads_a_published_section(tones):
    source = {"type": "lhotse_as_conversation", "manifest_filepath": "train.jsonl", "tags": {"context": "repeat"}}
    valid = {"input_cfg": [{"type": "multimodal_conversation", "manifest_filepath": "valid.jsonl"}]}
    config = {
        "train_ds": {"input_cfg": [source], "batch_size": 4, "seed": 3},
        "validation_ds": {"batch_size": 2, "datasets": {"tones": valid}},
    }
    tokenizer = load_tokenizer(tones)
    module = DataModule(config, tokenizer=tokenizer, dataset=SALMDataset(tokenizer, TAG), folder=tones)
    epochs = [[[one.id for one in batch["conversations"]] for batch in module.train_dataloader(e)] for e in (1, 1, 2)]
    assert epochs[0] == epochs[1] != epochs[2] and sum(map(len, epochs[0])) == 30
    assert [len(batch["conversations"]) for batch in module.val_dataloader()["tones"]] == [2, 2, 1]
    with pytest.raises(InputError, match="type parquet"):
        DataModule({"train_ds": {"input_cfg": [{"type": "parquet"}]}}, tokenizer).train_dataloader()
