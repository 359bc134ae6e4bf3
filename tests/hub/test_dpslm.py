"""DP-SLM's published example, and its torch.hub entries, on small models in the published formats."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import audio_info, read_audio, write_audio
from tests.helpers.dpslm import write_chain, write_codec

SEED = Path(__file__).parents[2] / ".." / "shared" / "seeds" / "004_783c71ef94dbf524.txt"


@pytest.fixture(scope="module")
def chain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The parts' files in a folder ``cache``, and 1.5 s of speech beside it."""
    folder = tmp_path_factory.mktemp("dpslm")
    wave, _ = read_audio(sorted((data / "speech" / "ljspeech").glob("*.flac"))[0], 16000, stop=1.5)
    write_audio(folder / "speech.wav", wave, 16000)
    return {**write_chain(folder / "cache", data, wave[0]), "speech": folder / "speech.wav", "cache": folder / "cache"}


@pytest.fixture
def at_hand(chain: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the example's recording, where the published names are the small files."""
    monkeypatch.setenv("SPEECHDLM_CACHE", str(chain["cache"]))
    monkeypatch.setenv("SPEECHDLM_OFFLINE", "1")
    (tmp_path / "1272-128104-0000.flac").write_bytes(chain["speech"].read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(folder: Path, names: dict[str, Any]) -> None:
    """Three different sounds of the same units, as long as their codec tokens say."""
    prompt, codes = names["prompt"], names["codec_ids_list"]
    assert len(prompt) > 3 and names["finished"] == [True] * 3
    assert all(len(set(pair)) == 2 for pair in zip(prompt, prompt[1:], strict=False))
    assert len({tuple(row.tolist()) for row in codes}) == 3
    assert len(names["units_duped"]) == 75 and names["features"].shape[1] == 32  # 1.5 s at 50 Hz
    for i, row in enumerate(codes):
        info = audio_info(folder / f"resynth_{i}.wav")
        assert info.sample_rate == 24000 and info.frames == 600 * len(row)


@pytest.mark.commands
def test_the_example_of_the_documentation_runs(at_hand: Path, checkout: Path) -> None:
    text = (checkout / "docs" / "unit_to_codec.md").read_text(encoding="utf-8")
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "wavlm_large" in block)
    names: dict[str, Any] = {}
    exec(compile(block, "unit_to_codec.md", "exec"), names)
    check(at_hand, names)


@pytest.mark.commands
@pytest.mark.skipif(not SEED.is_file(), reason="needs ../shared/seeds")
def test_the_published_example_runs_but_for_where_the_entries_are(
    at_hand: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = (one for one in re.findall(r"```py\n(.*?)```", SEED.read_text(), re.DOTALL) if "wavlm_large" in one)
    block, changed = re.subn(r'torch\.hub\.load\("nicolvisser/[\w-]+"', f'torch.hub.load("{checkout}"', block)
    block = block.replace("trust_repo=True", 'trust_repo=True, source="local"')
    assert changed == 5
    if not torch.cuda.is_available():
        block = block.replace('"cuda"', '"cpu"').replace(".cuda()", ".cpu()")
    shown: list[Any] = []
    notebook = types.ModuleType("IPython.display")
    vars(notebook).update(Audio=lambda samples, rate: (samples, rate), display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    names: dict[str, Any] = {}
    exec(compile(block, "seed", "exec"), names)
    check(at_hand, names)
    assert [rate for _, rate in shown] == [24000] * 3


def test_entries_take_files_at_hand_and_refuse_others(
    chain: dict[str, Path], checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEECHDLM_OFFLINE", "1")
    monkeypatch.setenv("SPEECHDLM_CACHE", str(tmp_path))

    def load(name: str, **options: Any) -> Any:
        return torch.hub.load(str(checkout), name, source="local", **options)

    wavlm, extract_features = load("wavlm_large", checkpoint=chain["wavlm"])
    wave, rate = read_audio(chain["speech"])
    features = extract_features(wavlm, wave, rate, layer=11)
    centroids = load("codebook", layer=11, k=500, checkpoint=chain["codebook"])
    quantizer = load("dpdp_quantizer_from_codebook", codebook=centroids, lmbda=4500, num_neighbors=25)
    again = load("dpdp_quantizer_from_codebook", checkpoint=chain["codebook"], lmbda=4500, num_neighbors=25)
    units = quantizer(features)[1]
    assert units.shape == (75,) and torch.equal(units, again(features)[1])
    acoustic = load("ellav_units_to_wavtokenizer", k=500, lmbda=4500, checkpoint=chain["acoustic"])
    assert len(acoustic.dictionary.units) == 500
    codec, encode, vocode = load("small_600_24k_4096", checkpoint=chain["codec"])
    codes = encode(codec, wave, rate)
    assert codes.shape == (1, 1, 60) and vocode(codec, codes)[0].shape == (1, 36000)
    with pytest.raises(InputError, match=r"layer 6: the model was loaded up to layer 11"):
        extract_features(wavlm, wave, rate, layer=6)
    with pytest.raises(InputError, match=r"\(1, N\) is expected, one channel"):
        extract_features(wavlm, torch.zeros(2, 8000), 16000)
    with pytest.raises(InputError, match="has 500 centroids, k=100 are asked for"):
        load("codebook", layer=11, k=100, checkpoint=chain["codebook"])
    with pytest.raises(InputError, match="is of 500 units, k=100 are asked for"):
        load("ellav_units_to_wavtokenizer", k=100, lmbda=0, checkpoint=chain["acoustic"])
    with pytest.raises(InputError, match="SPEECHDLM_OFFLINE forbids"):
        load("codebook", layer=11, k=1000)
    write_codec(tmp_path / "other.ckpt", (5, 4, 3, 2))
    with pytest.raises(InputError, match="codec tokens per second, the codec has 200"):
        from speechdlm_ext.generation.unit_to_codec import CodecOptions
        from speechdlm_ext.hub.codec_vocoder import CodecVocoder

        CodecVocoder(acoustic, load("small_600_24k_4096", checkpoint=tmp_path / "other.ckpt")[0], CodecOptions())


def test_an_acoustic_model_of_another_codebook_is_refused(
    chain: dict[str, Path], checkout: Path, tmp_path: Path, here: Any
) -> None:
    (tmp_path / "units.jsonl").write_text('{"audio": "a", "unitA": "1 2 3", "deduplicated": true}\n')
    command = ["scripts/synthesize.py", tmp_path / "units.jsonl", tmp_path / "out", "--preset", "dpslm", "--k", "100"]
    status, _, error = here(*command, "--acoustic", chain["acoustic"], "--codec-checkpoint", chain["codec"])
    assert (
        status == 2
        and error == "synthesize.py: error: --k 100: the vocoder is of 500 units; take the one of these units\n"
    )
    assert not (tmp_path / "out").exists()
