"""Convolutional models of speech: sizes and names as published, NeMo's numbers, rows of a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.io.nemo import read_nemo
from speechdlm_ext.modules.conv_speech import ConvSpeech, configuration
from speechdlm_ext.modules.conv_speech_configs import CONFIGURATIONS

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def parameters(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("family", "name", "target", "symbols", "count"),
    [
        ("quartznet", "15x5", "text", 28, 18_924_381),
        ("quartznet", "10x5", "text", 28, 12_818_781),  # 12.8 M and 6.7 M in the paper
        ("quartznet", "5x5", "text", 28, 6_713_181),
        ("jasper", "10x5dr", "text", 28, 332_632_349),  # 333 M in the paper
        ("citrinet", "256", "text", 1024, 10_259_729),
        ("citrinet", "512", "text", 1024, 36_994_321),
        ("citrinet", "1024", "text", 1024, 142_171_409),  # 142 M in the paper
        ("matchboxnet", "3x1x64", "label", 30, 77_214),
        ("matchboxnet", "3x1x64", "label", 35, 77_859),
        ("marblenet", "3x2x64", "label", 2, 89_154),
        ("marblenet", "3x2x64_20ms", "frame_labels", 2, 91_378),
    ],
)
def test_published_numbers_of_parameters(family: str, name: str, target: str, symbols: int, count: int) -> None:
    with torch.device("meta" if family in ("jasper", "citrinet") else "cpu"):
        model = ConvSpeech(CONFIGURATIONS[family][name](), target, symbols)
    assert parameters(model) == count


@pytest.mark.parametrize(
    ("file", "family", "name", "target", "symbols"),
    [
        ("quartznet_15x5", "quartznet", "15x5", "text", 28),
        ("matchboxnet_3x1x64_v1", "matchboxnet", "3x1x64", "label", 30),
        ("matchboxnet_3x1x64_v2", "matchboxnet", "3x1x64", "label", 35),
        ("marblenet_3x2x64", "marblenet", "3x2x64", "label", 2),
        ("marblenet_3x2x64_20ms", "marblenet", "3x2x64_20ms", "frame_labels", 2),
    ],
)
def test_names_and_shapes_of_weights_are_nemos(
    data: Path, file: str, family: str, name: str, target: str, symbols: int
) -> None:
    wanted = json.loads((data / f"reference/nemo/{file}_keys.json").read_text())["state_dict"]
    wanted.pop("loss.weight", None)  # of the loss alone
    model = ConvSpeech(CONFIGURATIONS[family][name](), target, symbols)
    assert {key: [list(value.shape), str(value.dtype)[6:]] for key, value in model.state_dict().items()} == wanted


def loaded(path: Path, target: str) -> tuple[ConvSpeech, dict[str, Any]]:
    file = read_nemo(path)
    symbols = len(file.config.get("labels") or file.config["decoder"]["vocabulary"])
    model = ConvSpeech({**file.config, "reflect": file.old_front_end}, target, symbols)
    model.load_state_dict({key: value for key, value in file.weights.items() if key != "loss.weight"})
    return model.eval(), file.config


@torch.no_grad()
def test_nemos_numbers_of_one_clip(data: Path) -> None:
    folder = data / "reference/nemo"
    wave = read_audio(data / "speech/ljspeech/LJ001-0002.flac")[0]
    length = torch.tensor([wave.shape[1]])
    for name, target, key in (("ctc_char", "text", "log_probs"), ("frame_vad", "frame_labels", "logits")):
        scores, lengths = loaded(folder / f"{name}.nemo", target)[0](wave, length)
        wanted = torch.from_numpy(np.load(folder / f"{name}.npz")[key])
        assert lengths.tolist() == [95]
        torch.testing.assert_close(scores[0, :95], wanted[:95], **CLOSE)
    reference = np.load(folder / "commands.npz")
    clips, lengths = torch.from_numpy(reference["audio"]) / 32768, torch.from_numpy(reference["audio_len"])
    scores, _ = loaded(folder / "commands.nemo", "label")[0](clips, lengths)
    torch.testing.assert_close(scores, torch.from_numpy(reference["logits"]), **CLOSE)  # each was run alone


@torch.no_grad()
@pytest.mark.parametrize("name", ["ctc_char", "ctc_bpe", "frame_vad"])
def test_nemos_numbers_from_its_features(data: Path, name: str) -> None:
    """Without the rounding of NeMo's Fourier transform: every block exactly, scores within 5e-6."""
    reference = np.load(data / f"reference/nemo/{name}_batch.npz")
    model, _ = loaded(data / f"reference/nemo/{name}.nemo", "text" if "ctc" in name else "frame_labels")
    features, frames = torch.from_numpy(reference["features"]), torch.from_numpy(reference["features_len"])
    encoded, valid = model.encoder(features, frames)
    wanted = torch.from_numpy(reference["log_probs" if "ctc" in name else "logits"])
    scores = model.decoder(encoded, valid)
    for row, count in enumerate(valid.tolist()):
        torch.testing.assert_close(scores[row, :count], wanted[row, :count], atol=5e-6, rtol=0)


@pytest.mark.parametrize("name", ["ctc_char", "ctc_bpe"])
def test_nemos_numbers_of_a_batch(data: Path, name: str) -> None:
    reference = np.load(data / f"reference/nemo/{name}_batch.npz")
    model, _ = loaded(data / f"reference/nemo/{name}.nemo", "text")
    wave, length = torch.from_numpy(reference["audio"]) / 32768, torch.from_numpy(reference["audio_len"])
    with torch.no_grad():
        scores, lengths = model(wave, length)
        for row, valid in enumerate(lengths):
            wanted = torch.from_numpy(reference["log_probs"])[row, :valid]
            torch.testing.assert_close(scores[row, :valid], wanted, **CLOSE)
        assert (scores.argmax(-1) == torch.from_numpy(reference["greedy"])).all()
    model.train()
    model.preprocessor.featurizer.dither = 0.0
    model.spec_augment.eval()
    scores, _ = model(wave, length)
    torch.testing.assert_close(scores, torch.from_numpy(reference["train_log_probs"]), atol=1e-3, rtol=1e-3)


def tiny(family: str) -> ConvSpeech:
    """A published configuration with few channels; BatchNorm's statistics as after training."""
    torch.manual_seed(1)
    config = configuration("", family, width=0.05)
    target = {"matchboxnet": "label", "marblenet": "label"}.get(family, "text")
    model = ConvSpeech(config, target, 5).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.bias.data.normal_(0, 0.1)
    return model


@torch.no_grad()
@pytest.mark.parametrize("family", list(CONFIGURATIONS))
def test_a_row_alone_is_the_row_in_a_batch(data: Path, family: str) -> None:
    model = tiny(family)
    wave = read_audio(data / "speech/ljspeech/LJ001-0002.flac")[0][0]
    waves = [wave[:9000], wave, wave[4000:20000]]
    lengths = torch.tensor([len(one) for one in waves])
    together, valid = model(torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths)
    for row, one in enumerate(waves):
        alone, length = model(one[None], lengths[row : row + 1])
        assert length[0] == valid[row]
        end = int(length[0]) if model.target == "text" else None
        torch.testing.assert_close(together[row][:end], alone[0][:end], atol=1e-4, rtol=1e-4)
        if model.target == "text":
            assert length[0] == -(-(len(one) // 160) // model.encoder.stride)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("20x5", "quartznet has 15x5, 10x5, 5x5, or JSON"),
        ("{", "not JSON"),
        ("{}", "no section preprocessor"),
        ('{"preprocessor": {}, "encoder": {"jasper": []}}', "a list of blocks"),
        ('{"preprocessor": {}, "encoder": {"jasper": [{"filters": 8}]}}', "a block has no repeat"),
    ],
)
def test_wrong_configurations_are_named(given: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ConvSpeech(configuration(given, "quartznet"), "text", 28)


@pytest.mark.parametrize("option", [{"groups": 2}, {"kernel": [3, 5]}, {"residual_mode": "x"}, {"typo": 1}])
def test_blocks_that_are_not_supported_are_named(option: dict[str, Any]) -> None:
    config = configuration("5x5", "quartznet")
    config["encoder"]["jasper"][1].update(option)
    with pytest.raises(InputError, match=next(iter(option)) if "kernel" not in option else "a number from 1 up"):
        ConvSpeech(config, "text", 28)
