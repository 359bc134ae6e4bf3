"""Duplex models from Python: beside the public code, in batches, in streams, saved and read again."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechdlm_ext.data.duplex_cuts import read_cuts
from speechdlm_ext.data.duplex_dataset import DuplexS2SDataset
from speechdlm_ext.errors import InputError
from speechdlm_ext.generation.duplex import DuplexOptions
from speechdlm_ext.hub.duplex import DuplexS2SModel, DuplexS2SSpeechDecoderModel
from speechdlm_ext.io.nemo import write_nemo
from tests.helpers.duplex import SPEECH_DECODER, write_config
from tests.helpers.host_syncs import counted_syncs, counted_work
from tests.helpers.references import reference_path

BOTH = [("duplex_s2s", DuplexS2SModel), ("duplex_s2s_speech_decoder", DuplexS2SSpeechDecoderModel)]


def _reference(name):
    folder = reference_path(f"nemo/speechlm/{name}")
    arrays = {key: torch.from_numpy(value) for key, value in np.load(folder / "io.npz").items()}
    return arrays, json.loads((folder / "io.json").read_text())


def _published_loss(text_logits, code_logits, arrays):
    """The public code's: sums over padding, too, divided by the number of valid frames."""
    frames, books = arrays["prepared_input_lens"].sum(), code_logits.size(2)
    text = F.cross_entropy(text_logits.flatten(0, 1), arrays["prepared_text_labels"].flatten(), reduction="sum")
    codes = F.cross_entropy(code_logits.flatten(0, 2), arrays["prepared_audio_labels"].flatten(), reduction="sum")
    return float(text / frames), float(codes / frames / books)


@pytest.mark.commands
@pytest.mark.parametrize(("name", "kind"), BOTH)
def test_published_model_predicts_and_says_what_the_public_code_does(name, kind):
    arrays, facts = _reference(name)
    model = kind.from_pretrained(reference_path(f"nemo/speechlm/{name}/model"))
    dataset = DuplexS2SDataset(model.tokenizer, 0.08, model.source_sample_rate, model.target_sample_rate)
    batch = dataset[read_cuts(reference_path("nemo/speechlm/cuts.jsonl"))]
    for key in ("source_tokens", "target_tokens", "source_audio_lens", "target_audio_lens", "target_token_lens"):
        assert torch.equal(batch[key], arrays[key]), key
    assert batch["target_texts"] == facts["target_texts"]
    assert torch.equal(model.encode_target(batch)["target_codes"].transpose(1, 2), arrays["codec_tokens"])
    with torch.no_grad():
        text, codes, frames = model(batch)
    for row, size in enumerate(frames.lengths.tolist()):
        assert torch.allclose(text[row, :size], arrays["text_logits"][row, :size], atol=1e-4)
        assert torch.allclose(codes[row, :size], arrays["audio_logits"][row, :size], atol=1e-4)
        assert torch.equal(frames.text_labels[row, :size], arrays["prepared_text_labels"][row, :size])
        assert torch.equal(frames.code_labels[row, :size], arrays["prepared_audio_labels"][row, :size])
        assert bool((frames.text_labels[row, size:] == -100).all())
    published = facts["training_step_eval_mode"]
    text_loss, audio_loss = _published_loss(arrays["text_logits"], arrays["audio_logits"], arrays)
    assert text_loss == pytest.approx(published["text_loss"], rel=1e-5)
    assert audio_loss == pytest.approx(published["audio_loss"], rel=1e-5)

    said = model.offline_inference(batch["source_audio"], batch["source_audio_lens"])
    assert said["text"] == facts["offline_text"]
    assert torch.equal(said["tokens_len"].long(), arrays["offline_tokens_len"])
    assert torch.equal(said["audio_len"].long(), arrays["offline_audio_len"])
    assert torch.allclose(said["audio"], arrays["offline_audio"].float(), atol=1e-3)
    for row, size in enumerate(said["tokens_len"].tolist()):
        assert torch.equal(said["tokens_text"][row, :size], arrays["offline_tokens_text"][row, :size])
        assert torch.equal(said["tokens_audio"][row, :size], arrays["offline_tokens_audio"][row, :size])


@pytest.mark.commands
@pytest.mark.parametrize("chunk", [1280, 700])
def test_published_model_streams_what_it_says_offline(chunk):
    arrays, facts = _reference("duplex_s2s")
    model = DuplexS2SModel.from_pretrained(reference_path("nemo/speechlm/duplex_s2s/model"))
    wave = arrays["source_audio"][:1].float() / 32768
    stream = model.streaming()
    steps = [stream.step(part) for part in wave.split(chunk, 1)] + [stream.finish()]
    assert "".join(step.text[0] for step in steps) == facts["offline_text"][0]
    assert torch.equal(torch.cat([step.codes for step in steps], 1), arrays["offline_tokens_audio"][:1])
    whole = model.offline_inference(wave, torch.tensor([wave.size(1)]))["audio"]
    assert torch.allclose(torch.cat([step.audio for step in steps], 1), whole, atol=1e-6)


@pytest.mark.commands
def test_a_model_that_needs_the_whole_recording_says_so_when_it_shall_stream():
    model = DuplexS2SSpeechDecoderModel.from_pretrained(reference_path("nemo/speechlm/duplex_s2s_speech_decoder/model"))
    with pytest.raises(InputError, match="whole recording"):
        model.streaming()
    with pytest.raises(InputError, match="speech decoder"):
        DuplexS2SModel.from_pretrained(reference_path("nemo/speechlm/duplex_s2s_speech_decoder/model"))


def _tiny(folder, **changes):
    path = write_config(folder, **changes)
    kind = DuplexS2SSpeechDecoderModel if "speech_decoder" in changes else DuplexS2SModel
    torch.manual_seed(3)
    return kind(json.loads(path.read_text()), folder).eval()


def _sound(rows=1, seconds=2.0, seed=5):
    torch.manual_seed(seed)
    return torch.randn(rows, round(16000 * seconds)) * 0.1


@pytest.mark.parametrize("changes", [{}, {"speech_decoder": SPEECH_DECODER}], ids=["without", "speech decoder"])
def test_a_stream_says_what_the_recording_gives(tmp_path, changes):
    model = _tiny(tmp_path, **changes)
    wave = _sound(rows=2)
    said = model.offline_inference(wave, torch.tensor([32000, 32000]))
    stream = model.streaming(batch=2)
    steps = [stream.step(part) for part in wave.split(1111, 1)] + [stream.finish()]
    assert torch.equal(torch.cat([step.tokens for step in steps], 1), said["tokens_text"])
    assert torch.equal(torch.cat([step.codes for step in steps], 1), said["tokens_audio"])
    assert ["".join(step.text[row] for step in steps) for row in range(2)] == said["text"]
    assert sum(step.audio.size(1) for step in steps) == said["audio"].size(1) == int(said["audio_len"][0])


@pytest.mark.commands
@pytest.mark.parametrize("changes", [{}, {"speech_decoder": SPEECH_DECODER}], ids=["without", "speech decoder"])
def test_a_row_alone_is_the_row_in_a_batch(tmp_path, changes):
    model = _tiny(tmp_path, **changes)
    wave, lengths = _sound(rows=3), torch.tensor([32000, 20000, 9001])
    for options in (None, DuplexOptions(temperature=1.0, text_temperature=1.0, top_k=5, seed=4)):
        said = model.offline_inference(wave, lengths, options=options)
        alone = model.offline_inference(wave[:1], lengths[:1], options=options)
        assert torch.equal(alone["tokens_audio"], said["tokens_audio"][:1]) and alone["text"] == said["text"][:1]
    last = model.offline_inference(wave[2:, :9001], lengths[2:])
    size = int(last["tokens_len"][0])
    greedy = model.offline_inference(wave, lengths)
    assert torch.equal(last["tokens_text"], greedy["tokens_text"][2:, :size])
    assert bool((greedy["tokens_text"][2, size:] == model.tokenizer.pad_id).all())


def _tensors(value, seen):
    """All tensors that an object holds on to."""
    if id(value) in seen or isinstance(value, (str, bytes, int, float, torch.nn.Module, type)):
        return []
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        return [value]
    inner = (
        list(value.values())
        if isinstance(value, dict)
        else list(vars(value).values())
        if hasattr(value, "__dict__")
        else []
    )
    inner += list(value) if isinstance(value, (list, tuple, set)) or type(value).__name__ == "deque" else []
    return [tensor for one in inner for tensor in _tensors(one, seen)]


@pytest.mark.commands
@pytest.mark.parametrize("changes", [{}, {"speech_decoder": SPEECH_DECODER}], ids=["without", "speech decoder"])
def test_memory_and_work_of_a_stream_stay_the_same(tmp_path, changes):
    model = _tiny(tmp_path, **changes)
    stream = model.streaming(context_seconds=1.6)  # 20 frames

    def held():
        return sum(tensor.untyped_storage().nbytes() for tensor in _tensors(stream, {id(model), id(model.model)}))

    sizes, work = [], []
    for number in range(4):  # of 32 frames each, 10 s in all: six times the context
        with counted_work() if number % 2 else nullcontext(Counter()) as count:
            for part in _sound(seconds=2.56, seed=number).split(1280, 1):
                stream.step(part)
        sizes.append(held())
        work.append(count)
    assert max(sizes[2:]) <= 1.1 * sizes[1]
    for name in ("operations", "numbers"):  # what is said makes a difference of a few
        assert work[3][name] == pytest.approx(work[1][name], rel=1e-3) and work[3][name] > 1000
    assert len(stream.ids[0]) <= 16


@pytest.mark.commands
def test_all_linear_layers_get_weights_of_8_bits(tmp_path):
    model = _tiny(tmp_path, speech_decoder=SPEECH_DECODER)
    count = sum(isinstance(module, torch.nn.Linear) for module in model.model.modules())
    before = model.model.lm_head(torch.eye(16))
    model.to_int8()
    kinds = Counter(type(module) for module in model.model.modules())
    assert kinds[torch.ao.nn.quantized.dynamic.Linear] == count > 20
    difference = (model.model.lm_head(torch.eye(16)) - before).abs().max()
    assert 0 < difference < 0.03 * before.abs().max()
    assert len(model.offline_inference(_sound(), torch.tensor([32000]))["text"]) == 1


def test_top_k_samples_from_the_likeliest_alone(tmp_path):
    model = _tiny(tmp_path)
    wave, lengths = _sound(seconds=3.0), torch.tensor([48000])
    first = model.offline_inference(wave, lengths, options=DuplexOptions(temperature=1.0, top_k=1))
    assert torch.equal(first["tokens_audio"], model.offline_inference(wave, lengths)["tokens_audio"])
    hot = [DuplexOptions(temperature=50.0, top_k=k, seed=2) for k in (2, -1)]
    two, all_of_them = (model.offline_inference(wave, lengths, options=options) for options in hot)
    user = model.perception(wave, lengths)[0]
    state, ranks = model.model.make_state(1, 60), []
    with torch.no_grad():
        for frame in range(user.size(1)):
            _, logits = model.model.step(user[:, frame], state)
            state.text, state.codes = two["tokens_text"][:, frame], two["tokens_audio"][:, frame]
            chosen = logits.gather(-1, state.codes.unsqueeze(-1))
            ranks.append((logits > chosen).sum(-1))
    assert int(torch.stack(ranks).max()) == 1
    assert not torch.equal(two["tokens_audio"], all_of_them["tokens_audio"])


def test_forced_turn_taking_ends_the_agents_turn(tmp_path):
    model = _tiny(tmp_path)
    wave = _sound()
    stream = model.streaming(force_turn_taking=3, is_speech=lambda chunk: chunk.abs().amax(1) > 0)
    free = model.streaming()
    eos = model.model.ids.text_eos
    read = []
    for part in wave.split(1280, 1):
        stream.step(part)
        free.step(part)
        read.append((int(stream.state.text), int(free.state.text)))
    assert all(forced == eos for forced, _ in read[3:]) and any(own != eos for _, own in read[3:])
    with pytest.raises(InputError, match="is_speech"):
        model.streaming(force_turn_taking=3)


@pytest.mark.parametrize("changes", [{}, {"speech_decoder": SPEECH_DECODER}], ids=["without", "speech decoder"])
def test_saved_and_read_again(tmp_path, changes, monkeypatch):
    model = _tiny(tmp_path / "a", **changes)
    model.save_pretrained(tmp_path / "b")
    (tmp_path / "b/codebook.safetensors").write_bytes((tmp_path / "a/codebook.safetensors").read_bytes())
    monkeypatch.chdir(tmp_path)
    again = type(model).from_pretrained("b")
    wave, lengths = _sound(), torch.tensor([32000])
    assert torch.equal(again.offline_inference(wave, lengths)["audio"], model.offline_inference(wave, lengths)["audio"])
    with pytest.raises(InputError, match="overwrite"):
        model.save_pretrained(tmp_path / "b")


@pytest.mark.parametrize("changes", [{}, {"speech_decoder": SPEECH_DECODER}], ids=["without", "speech decoder"])
def test_a_nemo_file_has_the_features_of_its_time(tmp_path, changes):
    model, wave, lengths = _tiny(tmp_path, **changes), _sound(), torch.tensor([32000])
    about = {"target": f"nemo.collections.duplex_s2s.models.{type(model).__name__}"}
    for name, version in (("new", "2.5.0"), ("old", "2.4.0")):
        write_nemo(tmp_path / f"{name}.nemo", {**model.cfg, **about, "nemo_version": version}, model.model.state_dict())
    again = type(model).from_pretrained(tmp_path / "new.nemo").offline_inference(wave, lengths)
    assert torch.equal(again["tokens_audio"], model.offline_inference(wave, lengths)["tokens_audio"])
    old = type(model).from_pretrained(tmp_path / "old.nemo").perception.preprocessor(wave, lengths)[1]
    assert (int(old), int(model.perception.preprocessor(wave, lengths)[1])) == (201, 200)
    write_nemo(tmp_path / "old.nemo", {**model.cfg, "target": "x.EncDecCTCModel"}, model.model.state_dict())
    with pytest.raises(InputError, match="a model EncDecCTCModel; expected DuplexS2SModel"):
        type(model).from_pretrained(tmp_path / "old.nemo")


def test_bad_input_is_refused_in_one_line(tmp_path):
    model = _tiny(tmp_path)
    with pytest.raises(InputError, match="one sample or more"):
        model.offline_inference(torch.zeros(1, 0), torch.tensor([0]))
    with pytest.raises(InputError, match="expected"):
        model.streaming().step(torch.zeros(2, 100))
    broken = torch.full((1, 2000), torch.nan)
    for read in (model.streaming().step, lambda wave: model.offline_inference(wave, torch.tensor([2000]))):
        with pytest.raises(InputError, match="not a finite number"):
            read(broken)
    with pytest.raises(InputError, match="two frames"):
        model.streaming(context_seconds=0.1)
    config = json.loads((tmp_path / "model.json").read_text())
    for change, message in [
        ({"perception": None}, "no perception"),
        ({"pretrained_audio_codec": "nothing.nemo"}, "no such"),
        ({"tokenizer": None}, "tokenizer"),
        ({"perception": {**config["perception"], "output_dim": 12}}, "width is 16"),
        ({"pretrained_llm": {**config["pretrained_llm"], "vocab_size": 2}}, "do not belong together"),
        ({"speech_decoder": {**SPEECH_DECODER, "has_xattn": True}}, "has_xattn"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            DuplexS2SModel({**config, **change}, tmp_path)
        assert "\n" not in str(error.value)


def test_recordings_longer_than_the_language_models_context(tmp_path):
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    llm = {"model_type": "llama", "vocab_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 20, **shape}
    model = _tiny(tmp_path, pretrained_llm=llm)
    assert model.offline_inference(_sound(seconds=1.5), torch.tensor([24000]))["tokens_text"].size(1) <= 20
    with pytest.raises(InputError, match="positions, the language model has 20"):
        model.offline_inference(_sound(), torch.tensor([32000]))
    with pytest.raises(InputError, match="the language model has 20"):
        model.streaming(context_seconds=2.0)
    stream = model.streaming(context_seconds=1.6)
    assert sum(stream.step(part).codes.size(1) for part in _sound(seconds=3.2).split(1280, 1)) > 30


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").write_bytes(pickle.dumps([print])), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").write_bytes((1 << 62).to_bytes(8, "little")), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no such file"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "expected a mapping, found list"),
        (lambda folder: (folder / "tokenizer.model").write_bytes(b"\x80\x04."), "tokenizer"),
    ],
)
def test_damaged_folders_are_refused(tmp_path, damage, message):
    model = _tiny(tmp_path)
    model.save_pretrained(tmp_path / "b")
    (tmp_path / "b/codebook.safetensors").write_bytes((tmp_path / "codebook.safetensors").read_bytes())
    damage(tmp_path / "b")
    with pytest.raises(InputError, match=message):
        DuplexS2SModel.from_pretrained(tmp_path / "b")


def test_weights_of_another_model_and_no_numbers_are_refused(tmp_path):
    model = _tiny(tmp_path)
    with torch.no_grad():
        model.model.audio_head.bias[0] = torch.nan
    model.save_pretrained(tmp_path / "b")
    (tmp_path / "b/codebook.safetensors").write_bytes((tmp_path / "codebook.safetensors").read_bytes())
    with pytest.raises(InputError, match="not numbers"):
        DuplexS2SModel.from_pretrained(tmp_path / "b")
    config = json.loads((tmp_path / "b/config.json").read_text())
    config["perception"]["encoder"]["n_layers"] = 2
    (tmp_path / "b/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no weights perception"):
        DuplexS2SModel.from_pretrained(tmp_path / "b")


def test_code_of_the_documentation_runs(tmp_path, checkout):
    """The Python of docs/duplex_models.md, as it stands, on a tiny model."""
    text = (checkout / "docs/duplex_models.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    model = _tiny(tmp_path)
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved/codebook.safetensors").write_bytes((tmp_path / "codebook.safetensors").read_bytes())
    wave = _sound()
    names = {
        "input_signal": wave, "input_signal_lens": torch.tensor([wave.size(1)]), "microphone": wave.split(2000, 1),
    }  # fmt: skip
    exec(compile(code.replace("path/to/folder", str(tmp_path / "saved")), "docs/duplex_models.md", "exec"), names)
    assert set(names["said"]) == {"text", "tokens_text", "tokens_audio", "tokens_len", "audio", "audio_len"}
    assert names["rest"].codes.size(1) >= 0 and names["step"].codes.size(2) == 4


@pytest.mark.parametrize("changes", [{}, {"speech_decoder": SPEECH_DECODER}], ids=["without", "speech decoder"])
def test_a_step_of_a_stream_waits_for_what_it_says_alone(tmp_path, changes):
    """Once for the ids that it spells, and once to see whether the chunk, which is on the CPU, has numbers alone."""
    stream = _tiny(tmp_path, **changes).streaming(context_seconds=1.6)
    stream.codec = SimpleNamespace(decode=lambda codes, last: codes)  # that of units makes its sound on the CPU
    chunks = _sound(seconds=4.0).split(1280, 1)
    for chunk in chunks[:30]:
        stream.step(chunk)
    with counted_syncs() as found:
        for chunk in chunks[30:40]:
            stream.step(chunk)
    assert found == {"tolist": 10, "_local_scalar_dense": 10}
