"""HuBERT checkpoints against fairseq's own forward pass, on real speech."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from speechdlm_ext.encoders import build_encoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from tests.helpers.speech_checkpoints import AT_25_HZ, BASE, LARGE, hubert, hubert_features, save_hubert

KINDS: dict[str, Any] = {  # options, batch norm, normalize, form
    "base": (BASE, False, False, "cfg"),
    "large": (LARGE, False, True, "cfg"),
    "multilingual": (BASE, True, False, "omegaconf"),
    "old": (LARGE, True, True, "args"),
    "25 Hz": (AT_25_HZ, True, False, "args"),
}


@pytest.fixture(scope="module")
def wave(data: Path) -> torch.Tensor:
    """Four seconds of speech at 16 kHz (64123,)."""
    return read_audio(data / "speech" / "jfk" / "jfk.flac", 16000)[0][0, 8000:72123]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hubert")
    for name, (options, batch_norm, normalize, form) in KINDS.items():
        save_hubert(folder / f"{name}.pt", hubert(1, batch_norm, **options), options, normalize, form)
    return folder


def encoder_of(path: Path, layer: int = 3, **options: Any) -> Any:
    return build_encoder("hubert", {"checkpoint": str(path), "layer": layer, **options})


def changed(source: Path, target: Path, change: Any) -> Path:
    state = torch.load(source, weights_only=False)
    change(state)
    torch.save(state, target)
    return target


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [1, 4])
def test_features_are_fairseqs(files: Path, wave: torch.Tensor, kind: str, layer: int) -> None:
    options, batch_norm, normalize, _ = KINDS[kind]
    encoder = encoder_of(files / f"{kind}.pt", layer)
    features = encoder.encode(wave, 16000)
    want = hubert_features(hubert(1, batch_norm, **options), wave, layer, normalize)
    hop, reach = (640, 720) if kind == "25 Hz" else (320, 400)
    assert features.shape == want.shape == ((len(wave) - reach) // hop + 1, 32) == (encoder.frames(len(wave)), 32)
    assert (encoder.sample_rate, encoder.frame_rate, encoder.dim) == (16000, 16000 / hop, 32)
    torch.testing.assert_close(features, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_single_files_give(files: Path, wave: torch.Tensor, kind: str) -> None:
    options, batch_norm, normalize, _ = KINDS[kind]
    encoder, model = encoder_of(files / f"{kind}.pt"), hubert(1, batch_norm, **options)
    waves = [wave[:31999], wave[5000:5720], wave, wave[100:20777], 0.1 * wave[:31999]]
    for batch_seconds in (120.0, 5.0, 0.1):
        for sound, features in zip(waves, encoder.encode_batch(waves, batch_seconds), strict=True):
            want = hubert_features(model, sound, 3, normalize)
            assert features.dtype == torch.float32
            torch.testing.assert_close(features, want, rtol=0, atol=2e-5)


def test_the_wave_is_normed_where_the_task_says_so(files: Path, tmp_path: Path, wave: torch.Tensor) -> None:
    def without(state: dict[str, Any]) -> None:
        state["cfg"]["task"]["normalize"] = False

    for path, same in ((files / "large.pt", True), (changed(files / "large.pt", tmp_path / "not.pt", without), False)):
        encoder = encoder_of(path)
        difference = (encoder.encode(wave, 16000) - encoder.encode(4 * wave + 0.1, 16000)).abs().max()
        assert encoder.identity["normalize"] is same
        assert float(difference) < 0.01 if same else float(difference) > 0.1


def test_only_the_blocks_that_are_needed(files: Path, wave: torch.Tensor) -> None:
    encoder = encoder_of(files / "base.pt", 2)
    names = set(encoder.model.state_dict())
    assert not any(".layers.2." in name or "final_proj" in name or "label" in name for name in names)
    runs: list[Any] = []
    for block in encoder.model.encoder.layers:
        block.register_forward_hook(lambda module, inputs, output: runs.append(module))
    encoder.encode(wave, 16000)
    assert runs == list(encoder.model.encoder.layers) and len(runs) == 2


def test_newer_names_of_the_weight_norm(files: Path, tmp_path: Path, wave: torch.Tensor) -> None:
    def rename(state: dict[str, Any]) -> None:
        for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
            weight = state["model"].pop(f"encoder.pos_conv.0.{old}")
            state["model"][f"encoder.pos_conv.0.parametrizations.weight.{new}"] = weight

    renamed = encoder_of(changed(files / "base.pt", tmp_path / "renamed.pt", rename))
    encoder = encoder_of(files / "base.pt")
    assert torch.equal(renamed.encode(wave, 16000), encoder.encode(wave, 16000))
    assert renamed.identity == encoder.identity


def test_identity_is_of_what_is_used(files: Path, tmp_path: Path) -> None:
    identity = encoder_of(files / "base.pt").identity
    assert json.loads(json.dumps(identity)) == identity and str(files) not in json.dumps(identity)

    def later(state: dict[str, Any]) -> None:
        state["model"]["encoder.layers.3.fc1.bias"] += 1
        state["model"]["final_proj.bias"] += 1

    def used(state: dict[str, Any]) -> None:
        state["model"]["encoder.layers.2.fc1.bias"][0] += 1e-6

    def first(state: dict[str, Any]) -> None:
        state["cfg"]["model"]["layer_norm_first"] = True

    assert encoder_of(changed(files / "base.pt", tmp_path / "a.pt", later)).identity == identity
    assert encoder_of(changed(files / "base.pt", tmp_path / "a.pt", used)).identity != identity
    assert encoder_of(changed(files / "base.pt", tmp_path / "a.pt", first)).identity != identity
    assert encoder_of(files / "base.pt", 2).identity != identity
    assert encoder_of(files / "base.pt", chunk_seconds=7.0).identity == identity


def test_options_build_the_same_encoder(
    files: Path, tmp_path: Path, wave: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    encoder = encoder_of(Path("base.pt"), 2, chunk_seconds=1.0, context_seconds=0.5)
    monkeypatch.chdir(tmp_path)
    again = build_encoder(encoder.name, json.loads(json.dumps(encoder.options)))
    assert again.identity == encoder.identity
    assert torch.equal(again.encode(wave, 16000), encoder.encode(wave, 16000))


def test_a_published_name_is_looked_up_in_the_cache(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEECHDLM_CACHE", str(tmp_path))
    monkeypatch.setenv("SPEECHDLM_OFFLINE", "1")
    with pytest.raises(InputError, match="hubert_base_ls960.pt is missing"):
        encoder_of(Path("hubert-base-ls960"))
    (tmp_path / "hubert-base-ls960").mkdir()
    (tmp_path / "hubert-base-ls960" / "hubert_base_ls960.pt").write_bytes((files / "base.pt").read_bytes())
    encoder = encoder_of(Path("hubert-base-ls960"))
    assert encoder.options["checkpoint"] == "hubert-base-ls960"
    assert encoder.identity == encoder_of(files / "base.pt").identity


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["base", "old"])
def test_half_precision(files: Path, wave: torch.Tensor, kind: str, dtype: torch.dtype) -> None:
    want = encoder_of(files / f"{kind}.pt").encode(wave, 16000)
    encoder = encoder_of(files / f"{kind}.pt").to("cpu", dtype)
    features = encoder.encode_batch([wave, wave[:9000]])[0]
    assert features.dtype == torch.float32 and not torch.equal(features, want)
    assert float(torch.cosine_similarity(features, want, dim=1).min()) > 0.99
    torch.testing.assert_close(encoder.to("cpu", torch.float32).frames(16000), 49)


WRONG: dict[str, tuple[Any, str]] = {
    "a weight missing": (lambda s: s["model"].pop("encoder.layers.1.fc2.bias"), "no weights encoder.layers.1.fc2.bias"),
    "several": (
        lambda s: [
            s["model"].pop(f"encoder.layers.0.{n}") for n in ("fc1.bias", "fc1.weight", "fc2.bias", "fc2.weight")
        ],
        "encoder.layers.0.fc1.bias, encoder.layers.0.fc1.weight, encoder.layers.0.fc2.bias and 1 more",
    ),
    "no positions": (
        lambda s: s["model"].pop("encoder.pos_conv.0.weight_g"),
        r"no encoder.pos_conv.0.weight_g and weight_v, nor .*running_mean.*it has: .*weight_v",
    ),
    "no bias of positions": (lambda s: s["model"].pop("encoder.pos_conv.0.bias"), "no weights encoder.pos_conv.0.bias"),
    "a weight too many": (
        lambda s: s["model"].update({"encoder.rope": torch.ones(1)}),
        "encoder.rope, which",
    ),
    "another shape": (
        lambda s: s["model"].update({"encoder.layers.0.fc1.weight": torch.ones(3, 4)}),
        r"encoder.layers.0.fc1.weight is 3 × 4, 64 × 32 is expected",
    ),
    "not a number": (lambda s: s["model"]["layer_norm.bias"].fill_(float("nan")), "layer_norm.bias have values"),
    "a block too many": (
        lambda s: s["model"].update({"encoder.layers.4.fc1.bias": torch.ones(64)}),
        "encoder.layers.4.fc1.bias, which this model has not",
    ),
    "no model": (lambda s: s.pop("model"), "no weights under 'model' .it has: args, cfg"),
    "no options": (lambda s: s.update(cfg=None), "neither cfg nor args"),
    "another model": (lambda s: s["cfg"]["model"].update(_name="wav2vec2"), "of the model wav2vec2, a hubert"),
    "fine-tuned": (lambda s: s["cfg"]["model"].update(_name="hubert_ctc"), "of the model hubert_ctc"),
    "conformer": (lambda s: s["cfg"]["model"].update(layer_type="conformer"), "conformer blocks"),
    "code in an option": (
        lambda s: s["cfg"]["model"].update(conv_feature_layers="__import__('os').system('false')"),
        "not run as Python",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_checkpoints_that_do_not_fit(files: Path, tmp_path: Path, case: str) -> None:
    change, message = WRONG[case]
    path = changed(files / "base.pt", tmp_path / "wrong.pt", change)
    with pytest.raises(InputError, match=f"(?s)wrong.pt.*{message}" if "code" not in case else message) as caught:
        encoder_of(path)
    assert "\n" not in str(caught.value)


def test_a_batch_norm_that_is_not_whole(files: Path, tmp_path: Path) -> None:
    def cut(state: dict[str, Any]) -> None:
        del state["model"]["encoder.pos_conv.0.running_var"], state["model"]["encoder.pos_conv.1.bias"]

    path = changed(files / "multilingual.pt", tmp_path / "cut.pt", cut)
    with pytest.raises(InputError, match="no weights encoder.pos_conv.0.running_var, encoder.pos_conv.1.bias"):
        encoder_of(path)


@pytest.mark.parametrize("layer", [0, 5, -1, 2.5, None, True])
def test_layers_that_are_not_there(files: Path, layer: Any) -> None:
    with pytest.raises(InputError, match="has 4 blocks and .*pass layer=1 to layer=4"):
        encoder_of(files / "base.pt", layer)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="missing.pt: no such file, nor the name of a published one .hubert-base-ls960"
    ):
        encoder_of(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(InputError, match="text.pt"):
        encoder_of(tmp_path / "text.pt")
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    with pytest.raises(InputError, match="it has: Tensor"):
        encoder_of(tmp_path / "tensor.pt")


class Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return Path.write_text, (self.witness, "ran")


def test_code_in_a_checkpoint_does_not_run(files: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = changed(files / "base.pt", tmp_path / "hostile.pt", lambda state: state.update(task=Hostile(witness)))
    with pytest.raises(InputError, match="hostile.pt: refused"):
        encoder_of(path)
    assert not witness.exists()


def test_sound_of_every_kind(files: Path, tmp_path: Path, wave: torch.Tensor) -> None:
    encoder = encoder_of(files / "old.pt")
    whole = encoder.encode(wave, 16000)
    for rate, subtype in ((16000, "PCM_U8"), (96000, "PCM_24")):
        sound = wave.numpy() if rate == 16000 else np.repeat(wave.numpy(), 6)
        soundfile.write(tmp_path / "sound.wav", sound, rate, subtype=subtype)
        read = read_audio(tmp_path / "sound.wav", 16000)[0][0]
        features = encoder.encode(read, 16000)
        assert features.shape == whole.shape and bool(torch.isfinite(features).all())
        assert not torch.equal(features, whole) and float(torch.cosine_similarity(features, whole, dim=1).mean()) > 0.8
    silence = encoder.encode(torch.zeros(16000), 16000)
    assert silence.shape == (49, 32) and bool(torch.isfinite(silence).all())


def test_sound_that_cannot_be_encoded(files: Path, wave: torch.Tensor) -> None:
    encoder = encoder_of(files / "base.pt")
    with pytest.raises(InputError, match="96000 Hz, the hubert encoder takes 16000 Hz"):
        encoder.encode(wave, 96000)
    with pytest.raises(InputError, match=r"sound of 160 samples is shorter than one frame: 400 .*25 ms"):
        encoder.encode(wave[:160], 16000)
    with pytest.raises(InputError, match="sound of 0 samples"):
        encoder.encode(wave[:0], 16000)
    with pytest.raises(InputError, match="sound 1 has a sample that is not a finite number"):
        encoder.encode_batch([wave, wave / 0])
    with pytest.raises(InputError, match=r"sound 1: one channel .* found shape \(2, 500\)"):
        encoder.encode_batch([wave, torch.zeros(2, 500)])
    with pytest.raises(InputError, match="int16"):
        encoder.encode((wave * 32767).short(), 16000)
    assert encoder.encode_batch([]) == []
    with pytest.raises(InputError, match="device nowhere"):
        encoder.to("nowhere")
    with pytest.raises(InputError, match="float64"):
        encoder.to("cpu", torch.float64)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(files: Path, wave: torch.Tensor) -> None:
    for kind in KINDS:
        encoder = encoder_of(files / f"{kind}.pt")
        want = encoder.encode_batch([wave, wave[:9000]])
        for features, expected in zip(encoder.to("cuda").encode_batch([wave, wave[:9000].cuda()]), want, strict=True):
            assert features.device.type == "cpu"
            torch.testing.assert_close(features, expected, rtol=0, atol=5e-3)
