"""SALM's folders, .nemo files and checkpoints: strict, written back, frozen weights where they came from."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from sentencepiece import SentencePieceTrainer

from speechdlm_ext.errors import InputError
from speechdlm_ext.hub import SALM
from speechdlm_ext.io.config import read_config
from speechdlm_ext.io.nemo import read_nemo, write_nemo
from speechdlm_ext.modules.weights import read_safetensors
from tests.helpers.hostile import payloads
from tests.helpers.references import reference_path
from tests.helpers.salm_models import TAG, write_config

REFERENCE = reference_path("nemo/speechlm/salm/model")
PROMPT = [[{"role": "user", "content": f"repeat {TAG}"}]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = write_config(tmp_path_factory.mktemp("salm"), lora={"r": 2})
    torch.manual_seed(2)
    model = SALM(read_config(path, "model"), path.parent).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # which begin as zeros
            torch.nn.init.normal_(parameter)
    return model


def answer(model):
    torch.manual_seed(4)
    return model.generate(PROMPT, torch.randn(1, 6000), torch.tensor([6000]), max_new_tokens=6).tolist()


def test_a_folder_needs_nothing_else(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "saved")
    assert answer(SALM.from_pretrained(tmp_path / "saved")) == answer(tiny)
    moved = shutil.move(tmp_path / "saved", tmp_path / "elsewhere")
    assert answer(SALM.from_pretrained(moved)) == answer(tiny)
    with pytest.raises(InputError, match="overwrite=True"):
        tiny.save_pretrained(moved)


def test_another_tokenizer_than_the_one_it_was_saved_with_is_one_line(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "saved")
    prefix = str(tmp_path / "saved" / "tokenizer")
    lines = ["ten twelve twenty eleven thirty", "zero to ten"] * 9
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=prefix, vocab_size=50, hard_vocab_limit=False, minloglevel=2
    )
    with pytest.raises(InputError, match="model.safetensors: saved with another tokenizer"):
        SALM.from_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.model").unlink()
    with pytest.raises(InputError, match="llm_backbone: no tokenizer in it"):
        SALM.from_pretrained(tmp_path / "saved")


def test_a_nemo_file_is_read_back(tiny, tmp_path):
    tiny.save_to(tmp_path / "model.nemo")
    assert answer(SALM.from_pretrained(tmp_path / "model.nemo")) == answer(tiny)
    # Before NeMo 2.5 a recording was reflected at its ends and had a frame more: 6000 // 160 + 1.
    file = read_nemo(tmp_path / "model.nemo")
    old = {"target": "nemo.collections.duplex_s2s.models.salm.SALM", "nemo_version": "2.4.0"}
    sections = {name: value for name, value in file.config["perception"].items() if name != "reflect"}
    write_nemo(tmp_path / "old.nemo", {**file.config, **old, "perception": sections}, file.weights)
    wave, length = torch.randn(1, 6000), torch.tensor([6000])
    bands, frames = SALM.from_pretrained(tmp_path / "old.nemo").perception.preprocessor(wave, length)
    assert frames == 38 and tiny.perception.preprocessor(wave, length)[1] == 37
    assert not torch.equal(bands[:, :, 0], tiny.perception.preprocessor(wave, length)[0][:, :, 0])


def test_a_published_folder_is_written_back_as_it_was(tmp_path):
    model = SALM.from_pretrained(REFERENCE)
    model.save_pretrained(tmp_path)
    config = json.loads((REFERENCE / "config.json").read_text())
    assert json.loads((tmp_path / "config.json").read_text()) == config
    before, after = read_safetensors(REFERENCE / "model.safetensors"), read_safetensors(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_tied_weights_are_kept_once(tmp_path):
    path = write_config(tmp_path)
    tied = {"model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    tied |= {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True}
    config = {**read_config(path, "model"), "pretrained_llm": tied, "tokenizer": "llm"}
    model = SALM(config, tmp_path).eval()
    model.save_pretrained(tmp_path / "saved")
    names = read_safetensors(tmp_path / "saved" / "model.safetensors").keys()
    assert "embed_tokens.weight" in names and "llm.lm_head.weight" not in names
    again = SALM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.llm.lm_head.weight, model.embed_tokens.weight)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights: weights.pop("perception.proj.bias"), "no weights perception.proj.bias"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "has weights extra"),
        (lambda weights: weights.update({"embed_tokens.weight": torch.zeros(3, 16)}), "embed_tokens.weight is 3 × 16"),
    ],
)
def test_loading_is_strict(tiny, tmp_path, damage, message):
    tiny.save_pretrained(tmp_path)
    weights = read_safetensors(tmp_path / "model.safetensors")
    damage(weights)
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=message):
        SALM.from_pretrained(tmp_path)


def test_hostile_files_are_one_line(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="cannot be read"):
        SALM.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="expected a mapping"):
        SALM.from_pretrained(tmp_path)


def test_weights_that_are_not_numbers_are_one_line(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    weights = read_safetensors(tmp_path / "model.safetensors")
    weights["perception.proj.bias"][3] = float("nan")
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="perception.proj.bias have values that are not numbers"):
        SALM.from_pretrained(tmp_path)


def test_pickles_do_not_run(tmp_path):
    marker = tmp_path / "marker"
    for number, (_, payload) in enumerate(payloads(marker).items()):
        path = tmp_path / f"{number}.pt"
        torch.save({"model": {}, "cfg": {"model": {"_name": "salm", "x": payload}}, "task_state": {"salm": {}}}, path)
        with pytest.raises(InputError, match=path.name):
            SALM.from_pretrained(path)
        assert not marker.exists()


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',  # of bytes that are not there
        b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [16, 0]}}',
        b"[" * 20000,
        b'{"a": 1}',
    ],
)
def test_hostile_headers_are_one_line(tiny, tmp_path, header):
    tiny.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="model.safetensors: cannot be read"):
        SALM.from_pretrained(tmp_path)


def test_only_trained_weights_are_kept(tiny):
    tiny.leave_out_frozen(tiny.cfg)
    try:
        kept = set(tiny.state_dict())
        assert kept and not any(name.startswith("embed_tokens") or "base_layer" in name for name in kept)
        assert any("running_mean" in name for name in kept)
        tiny.load_state_dict(tiny.state_dict())
        with pytest.raises(InputError, match="has no weights"):
            tiny.load_state_dict({name: value for name, value in tiny.state_dict().items() if "proj.bias" not in name})
    finally:
        tiny.save_trained_only = False
