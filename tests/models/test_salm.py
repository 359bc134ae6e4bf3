"""SALM beside the public code's outputs; rows alone and in batches; bad input."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechdlm_ext.asr.speech_model import load_speech_model
from speechdlm_ext.checkpoints.conv_speech import write_speech_checkpoint
from speechdlm_ext.criterions.salm_criterion import SALMCriterion
from speechdlm_ext.data.conversations import iter_conversations
from speechdlm_ext.data.salm_dataset import ConversationDataset, SALMDataset
from speechdlm_ext.data.splicing import IGNORED
from speechdlm_ext.errors import InputError
from speechdlm_ext.hub import SALM
from speechdlm_ext.io.config import read_config
from speechdlm_ext.io.nemo import write_nemo
from speechdlm_ext.modules.weights import read_safetensors
from speechdlm_ext.neural_types import LossType
from tests.helpers.host_syncs import counted_syncs
from tests.helpers.references import reference_path
from tests.helpers.salm_models import PERCEPTION, TAG, write_config, write_conversations
from tests.helpers.speech_checkpoints import BASE, hubert, save_hubert

RECOGNISER = Path(__file__).parents[1] / "data" / "reference" / "nemo" / "ctc_char.nemo"

REFERENCE = reference_path("nemo/speechlm")


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE / "salm" / "io.npz") as file:
        arrays = {name: torch.tensor(file[name]) for name in file}
    for name in ("audios", "generate_audio"):
        arrays[name] = arrays[name].float() / 32768
    return arrays, json.loads((REFERENCE / "salm" / "io.json").read_text())


def batch_of(arrays):
    return {name: arrays[name] for name in ("input_ids", "audios", "audio_lens", "loss_mask")}


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


@torch.no_grad()
def test_lora_is_that_of_the_public_code(reference):
    arrays, _ = reference
    said = json.loads((REFERENCE / "salm" / "lora.json").read_text())
    config = read_config(REFERENCE / "salm" / "model" / "config.json", "model")
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
    return SALM(read_config(path, "model"), path.parent).eval()


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


@pytest.fixture(scope="module")
def batches(tiny, tmp_path_factory):
    return batches_for(tiny, tmp_path_factory.mktemp("data"))


def batches_for(model, folder):
    """Of conversations of several audios and turns: a function that makes a batch of rows."""
    rows = [json.loads(line) for line in write_conversations(folder, "train", 3).read_text().splitlines()]
    audio = [{"type": "audio", "from": "User", "value": row["audio_filepath"]} for row in rows]
    said = [{"type": "text", "from": "Assistant", "value": row["text"]} for row in rows]
    asked = {"type": "text", "from": "User", "value": "and what was said then?"}
    turns = [[audio[0], said[0]], [audio[1], audio[2], said[1], asked, said[2]], [asked, said[1]]]
    lines = [json.dumps({"id": str(number), "conversations": one}) for number, one in enumerate(turns)]
    (folder / "turns.jsonl").write_text("\n".join(lines))
    collate = SALMDataset(model.tokenizer, model.audio_locator_tag, "llama2", model.sampling_rate)
    conversations = list(iter_conversations(folder / "turns.jsonl", TAG))
    data = ConversationDataset(conversations, collate, model.perception.output_frames)
    return lambda *rows: data.collater([data[row] for row in rows])


def loss_of(model, sample):
    task = SimpleNamespace(target_dictionary=None, model=model)
    return SALMCriterion(task, False, 0.0, 0)(model, sample)


def test_several_audios_and_turns_are_trained_as_each_alone(tiny, batches):
    whole, size, logs = loss_of(tiny, batches(0, 1, 2))
    alone = [loss_of(tiny, batches(row)) for row in range(3)]
    assert size == sum(one[1] for one in alone) == logs["predicted"] > 10
    assert whole.item() == pytest.approx(sum(one[0].item() for one in alone), rel=1e-5)


def test_the_collaters_layout_is_the_models(tiny, batches):
    sample = batches(0, 1)
    inputs = dict(sample["net_input"])
    logits, extra = tiny(**inputs)
    layout = inputs.pop("layout")
    everything, targets = tiny(**inputs)
    count = layout["predictions"]
    assert 0 < count < everything.size(1) and logits.size(1) == count
    torch.testing.assert_close(logits, everything[:, -count:])
    # Without a loss mask all tokens are targets; with it, all that are trained on are among the predictions.
    trained = extra["target"].ne(IGNORED)
    assert trained.sum() == sample["ntokens"]
    assert torch.equal(extra["target"][trained], targets["target"][:, -count:][trained])


@pytest.mark.parametrize("kind", ["rotary", "llama"])
def test_nothing_waits_for_the_device(tiny, batches, kind, tmp_path):
    model = tiny
    if kind == "llama":
        shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
        shape |= {"num_attention_heads": 2, "num_key_value_heads": 2, "model_type": "llama"}
        model = SALM({**tiny.cfg, "pretrained_llm": shape, "tokenizer": "llm"}, tiny.folder)
    sample = batches(0, 1, 2)
    loss_of(model, sample)  # once-only work, such as checks of types
    with counted_syncs() as found:
        loss, _, _ = loss_of(model.train(), sample)
        loss.backward()
    model.eval()
    assert not found


def test_a_frozen_encoder_gets_its_lengths_from_the_collater(tiny, tmp_path):
    path = save_hubert(tmp_path / "hubert.pt", hubert(1, **BASE), BASE)
    section = {"encoder": {"_target_": "hubert", "checkpoint": str(path), "layer": 1}, "stack": 4}
    model = SALM({**tiny.cfg, "perception": section}, tiny.folder)
    sample = batches_for(model, tmp_path)(0, 1, 2)
    loss = loss_of(model, sample)[0].item()
    with counted_syncs() as found:
        loss_of(model.train(), sample)[0].backward()
    # The encoder looks at sound that is on the CPU, and on no other device.
    assert found == {"numpy": len(sample["net_input"]["audio_lens"])}
    sample["net_input"]["layout"].pop("samples")
    assert loss_of(model.eval(), sample)[0].item() == loss
    assert loss_of(model.to(torch.bfloat16), sample)[0].item() == pytest.approx(loss, rel=0.02)


def test_checkpointed_activations_have_the_same_gradients(tiny, batches):
    found = []
    for again in (False, True):
        model = SALM(tiny.cfg, tiny.folder)
        model.load_state_dict(tiny.state_dict())
        if again:
            model.llm.gradient_checkpointing_enable()
        loss_of(model.train(), batches(1))[0].backward()
        found.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 20
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_its_borders_have_types(tiny):
    ids, wave, lens = torch.tensor([[tiny.audio_locator_tag_id, 5]]), torch.randn(1, 5120), torch.tensor([5120])
    with pytest.raises(TypeError, match=r"SALM.forward, argument audios: found Tensor of shape \(1, 1, 5120\)"):
        tiny(ids, wave[None], lens)
    with pytest.raises(TypeError, match="SALM.forward, argument audio_lens"):
        tiny(ids, wave, lens[None])
    with pytest.raises(TypeError, match="Perception.forward, argument input_signal"):
        tiny.perception(wave[0], lens)
    criterion = SALMCriterion(SimpleNamespace(target_dictionary=None, model=tiny), False, 1.0, 0)
    logits, extra = tiny(ids, wave, lens)
    assert isinstance(criterion.cross_entropy(logits, extra["target"]).neural_type.elements_type, LossType)
    with pytest.raises(
        TypeError, match=r"SALMCriterion.cross_entropy, argument target: found Tensor of shape \(\d+,\)"
    ):
        criterion.cross_entropy(logits, extra["target"][0])
    features, _ = tiny.perception.preprocessor(wave, lens)
    with pytest.raises(TypeError, match="SALMCriterion.align, argument embeddings: found .*SpectrogramType; expected"):
        criterion.align(features, {})


def test_spectrograms_are_masked_in_training_alone(tiny):
    section = {**PERCEPTION, "spec_augment": {"_target_": "any", "freq_masks": 2, "freq_width": 8}}
    model = SALM({**tiny.cfg, "perception": section}, tiny.folder)
    model.load_state_dict(tiny.state_dict())
    ids, wave, lens = torch.tensor([[tiny.audio_locator_tag_id, 5]]), torch.randn(1, 5120), torch.tensor([5120])
    assert torch.equal(model.eval()(ids, wave, lens)[0], tiny(ids, wave, lens)[0])
    seen = []
    model.perception.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    torch.manual_seed(1)
    model.train()(ids, wave, lens)
    silent = (seen[0] == 0).all(0)  # bands
    assert 0 < silent.sum() < 16


def test_a_recogniser_gives_its_encoder(tiny, tmp_path):
    write_speech_checkpoint(load_speech_model(RECOGNISER), tmp_path / "ctc.pt")
    conformer = {name: PERCEPTION[name] for name in ("preprocessor", "encoder")}
    weights = {name: one for name, one in tiny.perception.state_dict().items() if not name.startswith("modality")}
    more = {"decoder.weight": torch.zeros(3), **{name: one for name, one in weights.items() if "proj" not in name}}
    write_nemo(tmp_path / "conformer.nemo", {**conformer, "nemo_version": "2.6.0"}, more)
    wave, lens = torch.randn(2, 9000), torch.tensor([9000, 4000])
    for source in (RECOGNISER, tmp_path / "ctc.pt", tmp_path / "conformer.nemo"):
        section = {"stack": 2, "output_rms": "llm", "modality_adapter": {"_target_": "IdentityConnector"}}
        model = SALM({**tiny.cfg, "pretrained_asr": str(source), "perception": section}, tiny.folder).eval()
        perception = model.perception
        if source.name == "conformer.nemo":
            expected = tiny.perception.encoder
        else:
            expected = load_speech_model(RECOGNISER).network.encoder
        for name, one in expected.state_dict().items():
            assert torch.equal(perception.encoder.state_dict()[name], one), name
        embeddings, frames = perception(wave, lens)
        assert torch.equal(perception.output_frames(lens), frames)
        alone, _ = perception(wave[1:, :4000], lens[1:])
        torch.testing.assert_close(alone[0, : frames[1]], embeddings[1, : frames[1]], atol=1e-5, rtol=1e-4)
        size = model.embed_tokens.weight.square().mean().sqrt()
        torch.testing.assert_close(embeddings[0].square().mean(-1).sqrt(), size.expand(len(embeddings[0])))
        # A checkpoint of trained weights needs the recogniser's file where the encoder is frozen.
        assert model.origin()["config"]["pretrained_asr"] is None
        frozen = SALM({**model.cfg, "freeze_params": [r"^perception\.encoder\..+$"]}, tiny.folder)
        assert frozen.origin()["config"]["pretrained_asr"] == str(source.absolute())
        # It is built again without the recogniser, from what its folder says.
        model.save_pretrained(tmp_path / source.stem / source.suffix[1:])
        again = SALM.from_pretrained(tmp_path / source.stem / source.suffix[1:])
        assert torch.equal(again.perception(wave, lens)[0], embeddings)
    (tmp_path / "none.pt").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="none.pt"):
        SALM({**tiny.cfg, "pretrained_asr": str(tmp_path / "none.pt")}, tiny.folder)


def test_a_tokenizer_without_padding(tiny, tmp_path, caplog):
    """It pads with its unknown token, which may also stand in a prompt, or with token 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["repeat", "one", "two", "[INST]", "[/INST]", "</s>"])}
    made = Tokenizer(models.WordLevel(words, unk_token="two"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>").save_pretrained(tmp_path)
    model = SALM({**tiny.cfg, "tokenizer": str(tmp_path), "prompt_format": "plain"}, tiny.folder).eval()
    assert model.tokenizer.pad_id == 0 and "id 0 is used for padding" in caplog.text
    audios, lens = torch.randn(2, 6000), torch.tensor([6000, 3000])
    both = model.generate(prompts(f"one two two {TAG}", f"two {TAG}"), audios, lens, max_new_tokens=4)
    alone = model.generate(prompts(f"two {TAG}"), audios[1:, :3000], lens[1:], max_new_tokens=4)
    assert torch.equal(both[1:, : alone.size(1)], alone)


def test_bits_of_sound_are_the_sound(tiny):
    wave, lens = torch.randn(1, 5120), torch.tensor([5120])
    ids = torch.tensor([[tiny.audio_locator_tag_id, 5]])
    assert torch.equal(tiny(ids, wave, lens)[0], tiny(ids, wave.view(torch.int32), lens)[0])


@pytest.mark.commands
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
        ([f"{TAG} {TAG}"], torch.zeros(1, 4000), "2 placeholders for 1 audios"),
        (["hello"], torch.zeros(1, 4000), "0 placeholders for 1 audios"),
        ([TAG], torch.full((1, 4000), float("nan")), "not numbers"),
        ([TAG], torch.zeros(1, 100), "audio 1 of 1 is empty"),
        ([TAG], torch.zeros(1, 0), "audio 1 of 1 is empty"),
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


@pytest.mark.commands
def test_more_than_the_context_is_one_line():
    model = SALM.from_pretrained(REFERENCE / "salm" / "model")
    wave = torch.zeros(1, 16000 * 170)
    with pytest.raises(InputError, match="the language model has 2048"):
        model.generate(prompts(TAG), wave, torch.tensor([wave.size(1)]))
