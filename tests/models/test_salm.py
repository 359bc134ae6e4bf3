"""SALM beside the public code's outputs; rows alone and in batches; bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechdlm_ext.errors import InputError
from speechdlm_ext.hub import SALM
from speechdlm_ext.models.salm import IGNORED, read_model_config
from speechdlm_ext.modules.backbone import read_safetensors
from tests.helpers.salm_models import TAG, write_config

REFERENCE = Path(__file__).parents[2] / ".." / "shared" / "reference" / "nemo" / "speechlm"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs ../shared/reference/nemo")


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE / "salm" / "io.npz") as file:
        arrays = {name: torch.tensor(file[name]) for name in file}
    for name in ("audios", "generate_audio"):
        arrays[name] = arrays[name].float() / 32768
    return arrays, json.loads((REFERENCE / "salm" / "io.json").read_text())


def batch_of(arrays):
    return {name: arrays[name] for name in ("input_ids", "audios", "audio_lens", "loss_mask")}


@needs_reference
@torch.no_grad()
def test_loss_and_logits_are_those_of_the_public_code(reference):
    arrays, said = reference
    model = SALM.from_pretrained(REFERENCE / "salm" / "model")
    logits, extra = model(**batch_of(arrays))
    valid = arrays["attention_mask"]
    torch.testing.assert_close(logits[valid], arrays["logits"][valid], atol=1e-4, rtol=0)
    assert torch.equal(extra["target"], arrays["target_ids"])
    loss = F.cross_entropy(logits.flatten(0, 1), extra["target"].flatten(), ignore_index=IGNORED)
    assert loss.item() == pytest.approx(said["training_step"]["loss"], abs=1e-5)


@needs_reference
def test_generated_tokens_are_those_of_the_public_code(reference):
    arrays, said = reference
    model = SALM.from_pretrained(REFERENCE / "salm" / "model")
    audio = arrays["generate_audio"], arrays["generate_audio_len"]
    found = model.generate(said["prompts"], *audio, max_new_tokens=12)
    assert torch.equal(found, arrays["generate_ids"])
    assert [model.tokenizer.ids_to_text(row) for row in found] == said["generate_text"]
    assert model.generate(said["prompts"], *audio, max_new_tokens=8, num_beams=3).tolist() == said["generate_beam3"]
    text = said["generate_text_only"]
    assert model.generate(text["prompts"], max_new_tokens=8).tolist() == text["ids"]
    paths = [[{"role": "user", "content": "", "audio": [str(REFERENCE / "audio" / "c1.flac")]}]]
    assert model.generate(paths, max_new_tokens=4).shape == (1, 4)


@needs_reference
@torch.no_grad()
def test_lora_is_that_of_the_public_code(reference):
    arrays, _ = reference
    said = json.loads((REFERENCE / "salm" / "lora.json").read_text())
    config = read_model_config(REFERENCE / "salm" / "model" / "config.json")
    model = SALM({**config, "lora": said["lora"]}, REFERENCE / "salm" / "model").eval()
    weights = read_safetensors(REFERENCE / "salm" / "model" / "model.safetensors")
    with np.load(REFERENCE / "salm" / "lora.npz") as file:
        logits, lora = torch.tensor(file["logits"]), {name: torch.tensor(file[name]) for name in file if "lora" in name}
    plain = {name: name.replace("base_model.model.", "").replace("base_layer.", "") for name in said["keys"]}
    model.load_state_dict({name: lora[name] if name in lora else weights[plain[name]] for name in said["keys"]})
    found, _ = model(**batch_of(arrays))
    valid = arrays["attention_mask"]
    torch.testing.assert_close(found[valid], logits[valid], atol=1e-4, rtol=0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == set(said["trainable"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = write_config(tmp_path_factory.mktemp("salm"), lora={"r": 2})
    torch.manual_seed(2)
    return SALM(read_model_config(path), path.parent).eval()


def prompts(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


def test_a_row_alone_is_the_row_in_a_batch(tiny):
    torch.manual_seed(3)
    waves = [torch.randn(9000), torch.randn(3000), torch.randn(6000)]
    audios = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    lens = torch.tensor([9000, 3000, 6000])
    asked = prompts(f"repeat {TAG} and {TAG}", f"one two three four {TAG}")
    for options in ({}, {"do_sample": True, "top_k": 9, "temperature": 0.7}):
        both = tiny.generate(asked, audios, lens, max_new_tokens=9, **options)
        first = tiny.generate(asked[:1], audios[:2], lens[:2], max_new_tokens=9, **options)
        assert torch.equal(both[:1, : first.size(1)], first)
    second = tiny.generate(asked[1:], waves[2][None], lens[2:], max_new_tokens=9)
    greedy = tiny.generate(asked, audios, lens, max_new_tokens=9)
    assert torch.equal(greedy[1:, : second.size(1)], second)


def test_only_the_answers_are_trained_on_and_only_what_is_not_frozen(tiny):
    ids = torch.tensor([[tiny.audio_locator_tag_id, 5, 6, 7]])
    mask = torch.tensor([[False, False, True, True]])
    _, extra = tiny(ids, torch.randn(1, 5120), torch.tensor([5120]), mask)
    assert extra["target"][extra["target"] != IGNORED].tolist() == [6, 7]
    trained = [name for name, parameter in tiny.named_parameters() if parameter.requires_grad]
    assert any(".lora_" in name for name in trained)
    assert all(".lora_" in name or name.startswith("perception.") for name in trained)


def test_bits_of_sound_are_the_sound(tiny):
    wave, lens = torch.randn(1, 5120), torch.tensor([5120])
    ids = torch.tensor([[tiny.audio_locator_tag_id, 5]])
    assert torch.equal(tiny(ids, wave, lens)[0], tiny(ids, wave.view(torch.int32), lens)[0])


def test_what_is_frozen_keeps_its_running_means(tiny):
    frozen = SALM({**tiny.cfg, "freeze_params": [r"^perception\.encoder\..+$"]}, tiny.folder).train()
    before = {name: value.clone() for name, value in frozen.perception.named_buffers() if "running" in name}
    frozen(torch.tensor([[tiny.audio_locator_tag_id, 5]]), torch.randn(1, 5120), torch.tensor([5120]))
    for name, value in frozen.perception.named_buffers():
        if "running" in name:
            assert torch.equal(value, before[name]) == name.startswith("encoder.")


@pytest.mark.parametrize(
    ("texts", "audio", "message"),
    [
        ([f"{TAG} {TAG}"], torch.zeros(1, 4000), "2 placeholders .* for 1 audios"),
        (["hello"], torch.zeros(1, 4000), "0 placeholders .* for 1 audios"),
        ([TAG], torch.full((1, 4000), float("nan")), "not numbers"),
        ([TAG], torch.zeros(1, 100), "without a frame"),
    ],
)
def test_bad_audio_is_one_line(tiny, texts, audio, message):
    with pytest.raises(InputError, match=message):
        tiny.generate(prompts(*texts), audio, torch.tensor([audio.size(1)]))


def test_bad_models_are_one_line(tiny, tmp_path):
    config = dict(tiny.cfg)
    with pytest.raises(InputError, match="no perception"):
        SALM({**config, "perception": None}, tiny.folder)
    with pytest.raises(InputError, match="output_dim 8, the language model has 16"):
        SALM({**config, "perception": {**config["perception"], "output_dim": 8}}, tiny.folder)
    small = {"model_type": "rotary", "vocab_size": 12, "hidden_size": 16, "num_attention_heads": 2}
    small |= {"num_key_value_heads": 2, "num_hidden_layers": 1}
    with pytest.raises(InputError, match="tokens, the language model has 12"):
        SALM({**config, "pretrained_llm": small, "tokenizer": "llm"}, tiny.folder)
    with pytest.raises(InputError, match="no such file; download"):
        SALM({**config, "pretrained_asr": "nvidia/canary"}, tiny.folder)
    with pytest.raises(InputError, match="no such folder or file"):
        SALM.from_pretrained(tmp_path / "none")


@needs_reference
def test_more_than_the_context_is_one_line():
    model = SALM.from_pretrained(REFERENCE / "salm" / "model")
    wave = torch.zeros(1, 16000 * 170)
    with pytest.raises(InputError, match="the language model has 2048"):
        model.generate(prompts(TAG), wave, torch.tensor([wave.size(1)]))
