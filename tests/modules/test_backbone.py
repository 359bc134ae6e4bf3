"""The backbones behind one interface: padding, caches, embeddings elsewhere, LoRA, freezing, folders."""

import json

import pytest
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.modules.backbone import (
    add_lora,
    freeze_parameters,
    lend_embeddings,
    load_backbone,
    make_cache,
    predict_tokens,
    run_backbone,
    save_backbone,
    take_embeddings,
)

SHAPE = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
CONFIGS = {
    "rotary": {"model_type": "rotary", **SHAPE},
    "llama": {"model_type": "llama", **SHAPE},
    "gemma2": {"model_type": "gemma2", "head_dim": 8, **SHAPE},  # scales embeddings, caps logits
    "gpt2": {  # absolute positions
        "model_type": "gpt2", "vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1,
        "eos_token_id": 2,
    },
}  # fmt: skip


@pytest.fixture(params=CONFIGS)
def backbone(request):
    torch.manual_seed(1)
    return load_backbone(CONFIGS[request.param]).eval()


@torch.no_grad()
def test_padding_and_cache_change_nothing(backbone):
    x = torch.randn(2, 7, 32)
    padded = torch.cat([torch.randn(2, 3, 32), x], 1)
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[:, :3] = False
    whole = predict_tokens(backbone, x)
    torch.testing.assert_close(predict_tokens(backbone, padded, mask)[:, 3:], whole, atol=1e-5, rtol=1e-5)

    cache = make_cache(backbone, 16)
    steps = [predict_tokens(backbone, padded[:, :5], mask[:, :5], cache)]
    steps += [predict_tokens(backbone, padded[:, i : i + 1], mask[:, : i + 1], cache, last=1) for i in range(5, 10)]
    torch.testing.assert_close(torch.cat(steps, 1)[:, 3:], whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["rotary", "llama", "gemma2"])  # gpt2's absolute positions do not slide
def test_a_rolling_cache_is_a_window(kind):
    """Of one layer, whose states depend on its window alone: the last one is that of the window by itself."""
    backbone = load_backbone({**CONFIGS[kind], "num_hidden_layers": 1}).eval()
    x, cache = torch.randn(1, 9, 32), make_cache(backbone, 4, rolling=True)
    found = [run_backbone(backbone, x[:, i : i + 1], cache=cache) for i in range(9)]
    torch.testing.assert_close(found[-1], run_backbone(backbone, x[:, 5:])[:, -1:], atol=1e-5, rtol=1e-5)


def test_embeddings_move_out_and_are_lent(backbone):
    embeddings = take_embeddings(backbone)
    assert embeddings.weight.shape == (50, 32)
    assert not any("embed" in name or "wte" in name for name in backbone.state_dict())
    with lend_embeddings(backbone, embeddings):
        assert any(module is embeddings for module in backbone.modules())
    assert not any(module is embeddings for module in backbone.modules())


def test_lora_starts_as_the_model_and_alone_is_trained(backbone):
    x = torch.randn(1, 5, 32)
    before = run_backbone(backbone, x)
    llm = add_lora(backbone, {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"})
    torch.testing.assert_close(run_backbone(llm, x), before)
    trained = freeze_parameters(llm, [r"^base_model\..+$"], [r"^.+\.lora_.+$"])
    assert trained and all(".lora_" in name for name in trained)
    run_backbone(llm, x).sum().backward()
    assert any(p.grad is not None for n, p in llm.named_parameters() if "lora_B" in n)
    assert all(p.grad is None for n, p in llm.named_parameters() if "lora_" not in n)


def test_a_pattern_that_matches_nothing_is_said(caplog):
    llm = load_backbone(CONFIGS["rotary"])
    freeze_parameters(llm, [r"^lm_head\..+$", r"^speech\..+$"])
    assert "speech" in caplog.text and "lm_head\\" not in caplog.text
    with pytest.raises(InputError, match="no regular expression"):
        freeze_parameters(llm, ["("])
    with pytest.raises(InputError, match="lists of patterns"):
        freeze_parameters(llm, r"^lm_head\..+$")


def test_tied_weights_are_frozen_by_any_of_their_names(caplog):
    llm = load_backbone({**CONFIGS["llama"], "tie_word_embeddings": True})
    assert not any(name.startswith("lm_head") for name in freeze_parameters(llm, [r"^lm_head\..+$"]))
    assert not llm.model.embed_tokens.weight.requires_grad and "matches nothing" not in caplog.text


@pytest.mark.parametrize("kind", ["rotary", "llama"])
def test_a_folder_is_found_beside_the_model(kind, tmp_path):
    llm = load_backbone(CONFIGS[kind])
    save_backbone(llm, tmp_path / "llm")
    again = load_backbone("llm", beside=tmp_path / "salm")
    x = torch.randn(1, 4, 32)
    torch.testing.assert_close(predict_tokens(again.eval(), x), predict_tokens(llm.eval(), x))
    assert load_backbone("llm", weights=False, beside=tmp_path / "salm").config.vocab_size == 50


def test_bad_folders_are_one_line(tmp_path):
    with pytest.raises(InputError, match="hidden_size"):
        load_backbone({**CONFIGS["rotary"], "num_key_value_heads": 3})
    save_backbone(load_backbone(CONFIGS["rotary"]), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(InputError, match="cannot be read"):
        load_backbone(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIGS["rotary"], "rope": 1}))
    with pytest.raises(InputError, match="rope is not known"):
        load_backbone(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no causal language model"):
        load_backbone(tmp_path)
