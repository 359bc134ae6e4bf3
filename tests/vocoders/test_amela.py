"""AMELA's chain by its published names, with small files of the same format in the cache: nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path

import joblib
import pytest
import torch
from sklearn.cluster import KMeans

from speechdlm_ext.io.audio import audio_info, read_audio, write_audio
from speechdlm_ext.io.published import CODEBOOKS, HUBERT
from speechdlm_ext.vocoders.hifigan_files import PUBLISHED
from tests.helpers.commands import CHECKOUT, RunCommand
from tests.helpers.speech_checkpoints import BASE, hubert, save_hubert
from tests.helpers.vocoders import published_config, published_weights, write

MHUBERT = "mhubert-base-vp_mls_cv_8lang"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """mHuBERT, both codebooks, each with its vocoder: of the published form, and small."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SPEECHDLM_CACHE", str(folder))
    monkeypatch.setenv("SPEECHDLM_OFFLINE", "1")
    options = {**BASE, "encoder_layers": 12}
    for name in (MHUBERT, f"{MHUBERT}-kmeans-2000", f"{MHUBERT}-kmeans-expresso-2000"):
        (folder / name).mkdir(parents=True)
    save_hubert(folder / MHUBERT / Path(HUBERT[MHUBERT].url).name, hubert(1, **options), options, normalize=False)
    for seed, kind in enumerate(("kmeans-2000", "kmeans-expresso-2000")):
        name = f"{MHUBERT}-{kind}"
        means = KMeans(2000)
        means.cluster_centers_ = torch.randn(2000, 32, generator=torch.Generator().manual_seed(seed)).numpy()
        joblib.dump(means, folder / name / Path(CODEBOOKS[name].url).name)
        config = published_config(2000, speakers=3, styles=2)
        weights = published_weights(config, speakers=3, styles=2, seed=seed)
        write(folder / f"{name}-hifigan", config, weights, speakers=["a", "b", "c"], styles=["x", "y"])
        assert PUBLISHED[f"{name}-hifigan"][0].url.endswith("generator.pt")
    return folder


def test_the_preset_is_the_published_chain(cache: Path, tmp_path: Path, run_loaded: RunCommand) -> None:
    rows = []
    for place in ("expresso/audio/a/one.wav", "expresso/audio/b/two.wav"):
        path = tmp_path / "corpora" / place
        write_audio(path, 0.1 * torch.randn(1, 22050 * len(rows) + 20000), 22050)
        rows.append({"audio_filepath": str(path), "duration": audio_info(path).duration})
    manifest = tmp_path / "metadata" / "input.json"
    manifest.parent.mkdir()
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = str(CHECKOUT / "scripts" / "resynthesize.py")
    common = ["python", script, str(manifest), "expresso", "--preset", "amela", "--device", "cpu"]
    done = run_loaded([*common, "--output", str(tmp_path / "output")])
    assert "2 wav files" in done.stdout
    for row in rows:  # the tree is kept, 16 kHz, and not compressed in time
        made = tmp_path / "output" / row["audio_filepath"].split("/corpora/")[1]
        info = audio_info(made)
        assert info.sample_rate == 16000 and info.duration == pytest.approx(row["duration"], abs=1e-3)
    # By hand: the same with every option named, and the other codebook, which brings its own vocoder.
    kmeans = f"{MHUBERT}-kmeans-2000"
    by_hand = [
        *common[:4], "--encoder", "hubert", "--encoder-checkpoint", MHUBERT, "--layer", "12", "--codebook", kmeans,
        "--vocoder", "hifigan", "--vocoder-checkpoint", f"{kmeans}-hifigan", "--device", "cpu",
    ]  # fmt: skip
    run_loaded([*by_hand, "--output", str(tmp_path / "named")])
    other = ["--codebook", f"{MHUBERT}-kmeans-expresso-2000"]
    run_loaded([*common, *other, "--output", str(tmp_path / "other")])
    first, named, different = (
        read_audio(tmp_path / folder / "expresso/audio/a/one.wav")[0] for folder in ("output", "named", "other")
    )
    assert torch.equal(first, named) and not torch.equal(first, different)
    # A codebook of one's own does not say which vocoder belongs to it.
    own = cache / kmeans / Path(CODEBOOKS[kmeans].url).name
    refused = run_loaded([*common, "--codebook", str(own), "--output", str(tmp_path / "none")], check=False)
    assert refused.returncode == 2 and "pass the --vocoder-checkpoint that belongs to it" in refused.stderr
