"""Log-mel bands and MFCC against what NeMo computed, and against a plain computation in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.modules.speech_features import LogMelFeatures, MFCCFeatures, Preprocessor

QUARTZNET = {"features": 64, "window_size": 0.02, "n_fft": 512}
FRAME_VAD = {"features": 80, "window_size": 0.025, "n_fft": 512, "normalize": "None", "pad_to": 2}
COMMANDS = {"window_size": 0.025, "n_fft": 512}
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def batch(waves: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), torch.tensor([len(wave) for wave in waves])


@pytest.fixture
def sentence(data: Path) -> torch.Tensor:
    return read_audio(data / "speech/ljspeech/LJ001-0002.flac")[0][0]


def test_log_mel_bands_are_nemos(data: Path, sentence: torch.Tensor) -> None:
    wanted = torch.from_numpy(np.load(data / "reference/nemo/ctc_char.npz")["features"])
    features, lengths = LogMelFeatures(**QUARTZNET).eval()(*batch([sentence]))
    assert lengths.tolist() == [wanted.shape[1]] == [len(sentence) // 160]
    torch.testing.assert_close(features[0, :, : wanted.shape[1]], wanted, **CLOSE)
    assert features.shape[2] % 16 == 0 and not features[0, :, wanted.shape[1] :].any()


def test_mfcc_are_nemos(data: Path) -> None:
    reference = np.load(data / "reference/nemo/commands.npz")
    wave = torch.from_numpy(reference["audio"][0]) / 32768
    features, lengths = MFCCFeatures(**COMMANDS)(*batch([wave]))
    assert lengths.tolist() == [104]
    torch.testing.assert_close(features[0], torch.from_numpy(reference["features"]), **CLOSE)


@pytest.mark.parametrize("name", ["ctc_char", "frame_vad"])
def test_a_batch_of_nemos(data: Path, name: str) -> None:
    reference = np.load(data / f"reference/nemo/{name}_batch.npz")
    kind = QUARTZNET if "ctc" in name else FRAME_VAD
    wave, lengths = torch.from_numpy(reference["audio"]) / 32768, torch.from_numpy(reference["audio_len"])
    features, valid = LogMelFeatures(**kind).eval()(wave, lengths)
    assert valid.tolist() == reference["features_len"].tolist()
    theirs = torch.from_numpy(reference["features"])
    difference = (features - theirs).abs()
    assert (difference > 1e-4).sum() <= 3 and difference.max() < 1.2e-4
    # The reference is in single precision, ours in double: numpy's double precision is ten times as near to ours.
    for row, (samples, frames) in enumerate(zip(lengths.tolist(), valid.tolist(), strict=True)):
        exact = exact_bands(wave[row, :samples], LogMelFeatures(**kind), kind.get("normalize") != "None")[:, :frames]
        assert np.abs(features[row, :, :frames].numpy() - exact).max() < 1.2e-5
    nemos = exact_bands(wave[0, : int(lengths[0])], LogMelFeatures(**kind), kind.get("normalize") != "None")
    assert np.abs(theirs[0, :, : int(valid[0])].numpy() - nemos[:, : int(valid[0])]).max() > 4e-5


def exact_bands(wave: torch.Tensor, features: LogMelFeatures, normalize: bool) -> np.ndarray[Any, Any]:
    """In double precision from the definition, but for the pre-emphasis, which both sides have in single."""
    emphasized = torch.cat((wave[:1], wave[1:] - 0.97 * wave[:-1])).double().numpy()
    padded, window, edge = np.pad(emphasized, 256), np.zeros(512), (512 - features.window_length) // 2
    window[edge : 512 - edge] = features.window.double().numpy()
    frames = np.stack([padded[160 * t : 160 * t + 512] * window for t in range(len(wave) // 160)])
    bands = np.log(features.fb[0].double().numpy() @ np.abs(np.fft.rfft(frames)).T ** 2 + 2**-24)
    if not normalize:
        return bands
    return (bands - bands.mean(1, keepdims=True)) / (bands.std(1, ddof=1, keepdims=True) + 1e-5)


@pytest.mark.parametrize(
    "features",
    [
        LogMelFeatures(**QUARTZNET),
        LogMelFeatures(**QUARTZNET, reflect=True),
        LogMelFeatures(normalize="all_features", mag_power=1.0, log_zero_guard_type="clamp", pad_to=0),
        MFCCFeatures(**COMMANDS),
    ],
)
def test_a_row_alone_is_the_row_in_a_batch(sentence: torch.Tensor, features: LogMelFeatures | MFCCFeatures) -> None:
    features.eval()
    waves = [sentence[:12345], sentence, sentence[5000:5400], sentence[:100]]
    together, lengths = features(*batch(waves))
    for row, wave in enumerate(waves):
        alone, length = features(*batch([wave]))
        assert length[0] == lengths[row]
        torch.testing.assert_close(together[row, :, : length[0]], alone[0, :, : length[0]], atol=1e-5, rtol=1e-5)
        assert not together[row, :, length[0] :].any()


def test_the_front_end_before_2_5_reflects_the_ends(sentence: torch.Tensor) -> None:
    """By numpy from the definition: N // hop + 1 frames of the reflected, pre-emphasized sound."""
    options = {**QUARTZNET, "normalize": None, "pad_to": 0}
    features, lengths = LogMelFeatures(**options, reflect=True).eval()(*batch([sentence]))
    wave = sentence.double().numpy()
    emphasized = np.concatenate((wave[:1], wave[1:] - 0.97 * wave[:-1]))
    padded = np.pad(emphasized, 256, "reflect")
    window = np.zeros(512)
    window[96:416] = np.hanning(320)
    frames = np.stack([padded[160 * t : 160 * t + 512] * window for t in range(len(wave) // 160 + 1)])
    filters = LogMelFeatures(**options).fb[0].double().numpy()
    wanted = np.log(filters @ np.abs(np.fft.rfft(frames)).T ** 2 + 2**-24)
    assert lengths.tolist() == [wanted.shape[1]]
    np.testing.assert_allclose(features[0].numpy(), wanted, atol=1e-4)
    today, _ = LogMelFeatures(**options).eval()(*batch([sentence]))
    inside = slice(2, today.shape[2] - 3)
    np.testing.assert_allclose(today[0, :, inside].numpy(), wanted[:, inside], atol=1e-4)


def test_dither_is_for_training_and_half_precision_keeps_the_filters(sentence: torch.Tensor) -> None:
    features = LogMelFeatures(**QUARTZNET, dither=1e-3)
    wave = batch([sentence])
    assert not torch.equal(features.train()(*wave)[0], features(*wave)[0])
    before = features.eval()(*wave)[0]
    assert torch.equal(features.half()(*wave)[0], before)
    assert features.fb.dtype == torch.float32


def test_configurations_of_files(sentence: torch.Tensor) -> None:
    old = {"cls": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor", "params": dict(QUARTZNET)}
    today = {"_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor", **QUARTZNET}
    wave = batch([sentence])
    assert torch.equal(Preprocessor(old).eval()(*wave)[0], Preprocessor(today).eval()(*wave)[0])
    samples = {**today, "window_size": None, "window_stride": None, "n_window_size": 320, "n_window_stride": 160}
    assert torch.equal(Preprocessor(samples).eval()(*wave)[0], Preprocessor(today).eval()(*wave)[0])
    for wrong in ({"frame_splicing": 3}, {"window": "kaiser"}, {"bands": 3}, {"_target_": "os.system"}, {"n_fft": 8}):
        with pytest.raises(InputError):
            Preprocessor({**today, **wrong})
