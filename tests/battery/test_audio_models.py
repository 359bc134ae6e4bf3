"""What fairseq does with audio on this torch and torchaudio: reading, HuBERT, the unit vocoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from speechdlm_ext.errors import InputError
from tests.helpers.hostile import payloads

pytestmark = pytest.mark.commands
RATE = 16000


def _write_tone(path: Path, hertz: float, rate: int, channels: int = 1, level: float = 0.25) -> numpy.ndarray:
    import soundfile

    time = numpy.arange(rate) / rate
    tone = (level * numpy.sin(2 * numpy.pi * hertz * time)).astype(numpy.float32)
    wave = numpy.stack([tone, numpy.zeros_like(tone)][:channels], axis=1)
    soundfile.write(path, wave, rate, subtype="FLOAT")
    return wave.T


def _pitch(wave: numpy.ndarray, rate: int) -> float:
    spectrum = numpy.abs(numpy.fft.rfft(wave * numpy.hanning(len(wave))))
    return float(numpy.argmax(spectrum) * rate / len(wave))


def test_get_waveform_reads_converts_and_mixes(tmp_path: Path) -> None:
    from fairseq.data.audio.audio_utils import get_waveform

    path = tmp_path / "tone.wav"
    written = _write_tone(path, 440, 8000, channels=2)
    wave, rate = get_waveform(str(path), mono=False)
    assert rate == 8000 and numpy.allclose(wave, written, atol=1e-6)
    wave, rate = get_waveform(str(path), mono=True)
    assert numpy.allclose(wave[0], written.mean(axis=0), atol=1e-6)
    wave, rate = get_waveform(str(path), mono=True, output_sample_rate=RATE, normalize_volume=True)
    assert rate == RATE and wave.shape == (1, RATE)
    assert _pitch(wave[0], rate) == pytest.approx(440, abs=1)
    # Normalized on both channels before they are mixed: half of full scale is left of the one that sounds.
    assert numpy.abs(wave[0, 1000:-1000]).max() == pytest.approx(0.5, abs=0.01)


def test_fbank_features_are_read(tmp_path: Path) -> None:
    from fairseq.data.audio.audio_utils import get_fbank

    path = tmp_path / "tone.wav"
    _write_tone(path, 440, RATE)
    features = get_fbank(str(path))
    assert features.shape == (98, 80) and numpy.isfinite(features).all()
    # 440 Hz lies in the 16th or so of 80 mel bands up to 8 kHz.
    mel = 1127 * numpy.log1p(440 / 700) - 1127 * numpy.log1p(20 / 700)
    step = (1127 * numpy.log1p(8000 / 700) - 1127 * numpy.log1p(20 / 700)) / 81
    assert abs(features.mean(axis=0).argmax() - (mel / step - 1)) <= 1.5


def _hubert(**options: Any) -> Any:
    from fairseq.data import Dictionary
    from fairseq.models.hubert.hubert import HubertConfig, HubertModel
    from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig

    config = HubertConfig(
        label_rate=50,
        encoder_layers=2,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=64,
        encoder_attention_heads=4,
        final_dim=8,
        **options,
    )
    dictionary = Dictionary()
    for unit in range(10):
        dictionary.add_symbol(str(unit))
    torch.manual_seed(1)
    return HubertModel(config, HubertPretrainingConfig(data="", sample_rate=RATE), [dictionary])


def test_hubert_gives_a_feature_every_20_ms_and_a_loss_that_falls() -> None:
    model = _hubert(conv_feature_layers="[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2")
    wave = torch.randn(2, RATE)
    with torch.no_grad():
        model.eval()
        features, _ = model.extract_features(wave, mask=False)
        again, _ = model.extract_features(wave, mask=False)
    assert features.shape == (2, 49, 32) and torch.equal(features, again) and features.isfinite().all()
    # Masking uses numpy's old names; 49 frames leave room for spans of 10.
    model.train()
    numpy.random.seed(1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        no_padding = torch.zeros(2, RATE, dtype=torch.bool)
        made = model(wave, target_list=[torch.zeros(2, 49, dtype=torch.long)], padding_mask=no_padding)
        logits = model.get_logits(made, True) + model.get_logits(made, False)
        loss = torch.stack(
            [torch.nn.functional.cross_entropy(part, part.new_zeros(len(part)).long()) for part in logits]
        )
        losses.append(float(loss.mean()))
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_a_hubert_that_brings_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(InputError, match="is not run as Python"):
        _hubert(conv_feature_layers=f"open({str(marker)!r}, 'w').close() or [(16, 10, 5)]")
    assert not marker.exists()


VOCODER = {
    "num_embeddings": 20,
    "embedding_dim": 8,
    "model_in_dim": 8,
    "upsample_rates": [5, 4, 4, 4],
    "upsample_kernel_sizes": [11, 8, 8, 8],
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]],
    "resblock": "1",
    "dur_predictor_params": {
        "encoder_embed_dim": 8,
        "var_pred_hidden_dim": 8,
        "var_pred_kernel_size": 3,
        "var_pred_dropout": 0.5,
    },
}


def _vocoder_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    from fairseq.models.text_to_speech.codehifigan import CodeGenerator

    torch.manual_seed(1)
    weights: dict[str, torch.Tensor] = CodeGenerator(VOCODER).state_dict()
    torch.save({"generator": weights}, path)
    return weights


def test_the_unit_vocoder_makes_320_samples_a_unit(tmp_path: Path) -> None:
    from fairseq.models.text_to_speech.vocoder import CodeHiFiGANVocoder

    _vocoder_checkpoint(tmp_path / "vocoder.pt")
    vocoder = CodeHiFiGANVocoder(str(tmp_path / "vocoder.pt"), json.loads(json.dumps(VOCODER)))
    units = torch.randint(20, (1, 25), generator=torch.Generator().manual_seed(2))
    wave = vocoder({"code": units}, dur_prediction=False)
    assert wave.shape == (25 * 320,) and wave.isfinite().all() and wave.abs().max() <= 1
    assert torch.equal(wave, vocoder({"code": units}, dur_prediction=False))
    other = vocoder({"code": (units + 1) % 20}, dur_prediction=False)
    assert not torch.equal(wave, other)
    assert len(vocoder({"code": units}, dur_prediction=True)) % 320 == 0


def test_a_hostile_vocoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairseq.models.text_to_speech.vocoder import CodeHiFiGANVocoder

    marker, path = tmp_path / "marker", tmp_path / "vocoder.pt"
    weights = _vocoder_checkpoint(path)
    torch.save({"generator": weights, "note": payloads(marker)["os.system"]}, path)
    with pytest.raises(InputError, match=r"vocoder\.pt: refused"):
        CodeHiFiGANVocoder(str(path), dict(VOCODER))
    assert not marker.exists()
    monkeypatch.setenv("SPEECHDLM_TRUST_CHECKPOINTS", "1")
    CodeHiFiGANVocoder(str(path), dict(VOCODER))
    assert marker.exists()
