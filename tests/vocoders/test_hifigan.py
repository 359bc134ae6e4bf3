"""Unit HiFi-GANs: the sound of fairseq's own forward, whatever the batch, the chunks, or the form of the checkpoint."""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.models.text_to_speech.hifigan import Generator
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdlm_ext.commands.vocoder import add_vocoder_options, vocoder_from
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.modules.unit_generator import UnitGenerator, context_frames
from speechdlm_ext.units import Codebook
from speechdlm_ext.vocoders import HiFiGANVocoder
from tests.helpers.vocoders import DURATIONS, fairseq_sound, published_config, published_weights, write

SPEAKERS = ["ex01", "ex02", "ex03", "ex04", "lj", "p225"]
STYLES = ["default", "happy", "sad"]


def random_units(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(50, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def dgslm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, torch.Tensor]]:
    """Speakers, no styles, no names: dGSLM's."""
    config = published_config(speakers=6)
    weights = published_weights(config, speakers=6)
    return write(tmp_path_factory.mktemp("dgslm"), config, weights), config, weights


@pytest.fixture(scope="module")
def expresso(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, torch.Tensor]]:
    """Speakers and styles with names: Expresso's."""
    config = published_config(speakers=6, styles=3)
    weights = published_weights(config, speakers=6, styles=3)
    folder = tmp_path_factory.mktemp("expresso")
    return write(folder, config, weights, speakers=SPEAKERS, styles=STYLES), config, weights


@pytest.mark.commands
def test_two_channels_are_fairseqs_speakers_0_and_4(dgslm: Any) -> None:
    checkpoint, config, weights = dgslm
    vocoder = HiFiGANVocoder.load(checkpoint)
    assert (vocoder.frame_rate, vocoder.sample_rate, vocoder.num_units) == (50.0, 16000, 50)
    units = random_units(3, 30, 2)
    sound = vocoder.decode(units)
    assert sound.shape == (3, 2, 9600) and sound.dtype == torch.float32
    assert 0.05 < float(sound.std()) < 0.7  # the weights make a sound; else the comparisons below would say little
    for row in range(3):
        for channel, speaker in enumerate((0, 4)):
            expected = fairseq_sound(config, weights, units[row, :, channel], speaker, None)
            torch.testing.assert_close(sound[row, channel], expected, rtol=0, atol=1e-5)
    assert not torch.allclose(sound[0, 1], fairseq_sound(config, weights, units[0, :, 1], 0, None), atol=1e-3)


@pytest.mark.commands
def test_styles_and_names(expresso: Any) -> None:
    checkpoint, config, weights = expresso
    units = random_units(1, 20, 2)
    for speakers, styles, numbers in (
        (None, None, [(0, 0), (4, 0)]),
        (["lj", "ex02"], ["sad"], [(4, 2), (1, 2)]),
        ([5], ["1", 2], [(5, 1), (5, 2)]),
    ):
        sound = HiFiGANVocoder.load(checkpoint.parent, speakers=speakers, styles=styles).decode(units)[0]
        for channel, (speaker, style) in enumerate(numbers):
            expected = fairseq_sound(config, weights, units[0, :, channel], speaker, style)
            torch.testing.assert_close(sound[channel], expected, rtol=0, atol=2e-5)


def test_windows_of_equal_length_are_made_together(dgslm: Any) -> None:
    """Of 3 rows of 2 channels with 5 chunks: those at both ends, and those in the middle; by default none on a CPU."""
    units = random_units(3, 50, 2)

    def decode(batch_seconds: float | None) -> tuple[torch.Tensor, list[int]]:
        vocoder = HiFiGANVocoder.load(dgslm[0], chunk_seconds=0.2, batch_seconds=batch_seconds)
        vocoder.context = (3, 3)
        rows: list[int] = []
        vocoder.generator.register_forward_pre_hook(lambda *call: rows.append(len(call[2]["code"])), with_kwargs=True)
        return vocoder.decode(units), rows

    together, rows = decode(160.0)
    assert sorted(rows) == [12, 18]
    alone, rows = decode(None)
    assert rows == [1] * 30
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert max(decode(1.0)[1]) == 50 // 16  # windows of 16 frames


@pytest.mark.commands
def test_chunks_equal_the_whole_seams_included(dgslm: Any) -> None:
    checkpoint = dgslm[0]
    units = random_units(1, 60, 2)
    whole = HiFiGANVocoder.load(checkpoint).decode(units)
    for frames in (7, 30, 59):
        chunked = HiFiGANVocoder.load(checkpoint, chunk_seconds=frames / 50)
        assert chunked.chunk_frames == frames
        torch.testing.assert_close(chunked.decode(units), whole, rtol=0, atol=1e-5)
    # Without context, the seams are heard: those of test_context_… are exactly as many frames as it takes.
    deaf = HiFiGANVocoder.load(checkpoint, chunk_seconds=30 / 50)
    deaf.context = (0, 0)
    assert float((deaf.decode(units) - whole).abs().max()) > 1e-2


@settings(deadline=None, max_examples=12)
@given(st.data())
def test_context_is_the_reach_of_the_gradient(data: st.DataObject) -> None:
    """Which units per frame of sound depends on, asked of autograd, for generators of many shapes."""
    rates = data.draw(st.lists(st.sampled_from([2, 3, 4, 5]), min_size=1, max_size=3))
    kernels = [rate + data.draw(st.integers(0, 7)) for rate in rates]
    blocks = data.draw(st.lists(st.sampled_from([3, 5, 7]), min_size=1, max_size=2))
    config = {
        **published_config(units=3),
        "upsample_rates": rates,
        "upsample_kernel_sizes": kernels,
        "upsample_initial_channel": 8,
        "resblock_kernel_sizes": blocks,
        "resblock_dilation_sizes": [data.draw(st.lists(st.integers(1, 5), min_size=3, max_size=3)) for _ in blocks],
    }
    torch.manual_seed(1)
    generator = UnitGenerator(config).double()
    for parameter in generator.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.0)  # positive: nothing cancels, and nothing is cut off by a ReLU
    generator.conv_post.weight_g.data *= 1e-12  # tanh is not to saturate
    embedded = torch.rand(1, 8, 400, dtype=torch.double, requires_grad=True)
    sound = Generator.forward(generator, embedded)[0, 0]
    frame = 200
    sound[frame * generator.hop : (frame + 1) * generator.hop].sum().backward()
    reached = embedded.grad[0].abs().sum(dim=0).nonzero()[:, 0]
    before, after = context_frames(config)
    assert (frame - int(reached[0]), int(reached[-1]) - frame) == (before, after)


def test_all_forms_of_the_weights_sound_alike(dgslm: Any, tmp_path: Path) -> None:
    checkpoint, config, weights = dgslm
    units = random_units(1, 12, 1)
    expected = HiFiGANVocoder.load(checkpoint).decode(units)
    today = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in weights.items()
    }
    assert sum("parametrizations" in name for name in today) == 2 * (2 + 5 + 15 * 6)
    folded = {name: tensor for name, tensor in weights.items() if "weight_" not in name}
    for name in weights:
        if name.endswith("weight_v"):
            direction, length = weights[name], weights[name.replace("_v", "_g")]
            norm = direction.flatten(1).norm(dim=1)[:, None, None]
            folded[name.replace("weight_v", "weight")] = direction * (length / norm)
    for number, form in enumerate((today, folded)):
        path = write(tmp_path / str(number), config, form)
        torch.testing.assert_close(HiFiGANVocoder.load(path).decode(units), expected, rtol=0, atol=1e-5)


def test_predicted_durations_are_fairseqs(tmp_path: Path) -> None:
    config = published_config(durations=True)
    weights = published_weights(config)
    weights["dur_predictor.proj.bias"] += 1.2
    vocoder = HiFiGANVocoder.load(write(tmp_path, config, weights))
    assert vocoder.predicts_durations
    units = random_units(25)
    durations = vocoder.predict_durations(units)
    assert int(durations.min()) >= 1 and len(durations.unique()) > 1
    from fairseq.models.text_to_speech.codehifigan import CodeGenerator

    theirs = CodeGenerator(config).eval()
    theirs.load_state_dict(weights)
    with torch.no_grad():
        expected = theirs(code=units[None], dur_prediction=True)[0, 0]
    sound = vocoder.decode(torch.repeat_interleave(units, durations)[None, :, None])[0, 0]
    torch.testing.assert_close(sound, expected, rtol=0, atol=1e-5)


def test_odd_upsampling_keeps_whole_frames(tmp_path: Path) -> None:
    """A kernel longer than its stride by an odd number adds samples at the end: they belong to no frame."""
    config = {**published_config(), "upsample_kernel_sizes": [10, 7, 8, 4, 4]}
    vocoder = HiFiGANVocoder.load(write(tmp_path, config, published_weights(config)), chunk_seconds=0.2)
    units = random_units(2, 33, 1)
    sound = vocoder.decode(units)
    assert sound.shape == (2, 1, 33 * 320)
    vocoder.chunk_frames = 33
    torch.testing.assert_close(sound, vocoder.decode(units), rtol=0, atol=1e-5)


BROKEN_WEIGHTS = {
    "missing": (lambda w: w.pop("resblocks.3.convs1.1.bias"), "no weights resblocks.3.convs1.1.bias"),
    "length": (lambda w: w.pop("conv_pre.weight_g"), "has conv_pre.weight_v without conv_pre.weight_g"),
    "direction": (lambda w: w.pop("ups.0.weight_v"), "has ups.0.weight_g without its weight_v"),
    "unknown": (lambda w: w.update(extra=torch.ones(2)), "has weights extra"),
    "shape": (
        lambda w: w.update({"conv_post.bias": torch.ones(3)}),
        "conv_post.bias is 3, 1 is expected: take",
    ),
    "nan": (lambda w: w["spkr.weight"].fill_(torch.nan), "spkr.weight have values that are not numbers"),
}


@pytest.mark.parametrize("case", BROKEN_WEIGHTS)
def test_weights_that_do_not_fit(dgslm: Any, tmp_path: Path, case: str) -> None:
    _, config, weights = dgslm
    spoil, message = BROKEN_WEIGHTS[case]
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    spoil(weights)
    with pytest.raises(InputError, match=message):
        HiFiGANVocoder.load(write(tmp_path, config, weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_embeddings": 100}, r"dict.weight .*num_embeddings.* is 50 × 8, 100 × 8 is expected"),
        ({"num_speakers": 4}, r"spkr.weight .*num_speakers.* is 6 × 8"),
        ({"multispkr": None, "model_in_dim": 8}, "has weights spkr.weight"),
        ({"model_in_dim": 8}, "model_in_dim is 8, its 2 embeddings .* are 16"),
        ({"f0": True}, "takes a pitch contour"),
        ({"resblock": "2"}, "resblock is '2'"),
        ({"upsample_rates": None}, "upsample_rates is None"),
        ({"upsample_rates": [5, 4, 4, 2]}, "do not go together"),
        ({"dur_predictor_params": {**DURATIONS, "var_pred_kernel_size": 5}}, "var_pred_kernel_size 5: 3 is expected"),
        ({"code_hop_size": 640}, "makes 320 samples per frame, its config.json says 640"),
    ],
)
def test_configurations_that_do_not_fit(dgslm: Any, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    _, config, weights = dgslm
    with pytest.raises(InputError, match=message):
        HiFiGANVocoder.load(write(tmp_path, {**config, **change}, weights))


def test_other_bad_input(dgslm: Any, expresso: Any, tmp_path: Path) -> None:
    checkpoint = dgslm[0]
    vocoder = HiFiGANVocoder.load(checkpoint)
    with pytest.raises(InputError, match="unit 50 is not among those of the vocoder, which has 0 to 49"):
        vocoder.decode(torch.full((1, 4, 2), 50))
    with pytest.raises(InputError, match="unit -1"):
        vocoder.decode(torch.full((1, 4, 2), -1))
    for shape in ((4, 2), (1, 0, 2)):
        with pytest.raises(InputError, match=r"\(B, T, C\)"):
            vocoder.decode(torch.zeros(shape, dtype=torch.long))
    with pytest.raises(InputError, match="speaker 6 is not in the vocoder's table; there is 0 to 5$"):
        HiFiGANVocoder.load(checkpoint, speakers=[6])
    with pytest.raises(InputError, match="speaker ex09 .* 0 to 5: ex01, ex02, ex03, ex04, lj, p225"):
        HiFiGANVocoder.load(expresso[0], speakers=["ex09"])
    with pytest.raises(InputError, match="style angry .* 0 to 2: default, happy, sad"):
        HiFiGANVocoder.load(expresso[0], styles=["angry"])
    with pytest.raises(InputError, match="no styles to choose from"):
        HiFiGANVocoder.load(checkpoint, styles=[0])
    with pytest.raises(InputError, match="no predictor of durations"):
        vocoder.predict_durations(torch.tensor([1, 2]))
    with pytest.raises(InputError, match="no such checkpoint"):
        HiFiGANVocoder.load(tmp_path / "none.pt")
    with pytest.raises(InputError, match="has no generator.pt"):
        HiFiGANVocoder.load(tmp_path)
    shutil.copy(checkpoint, tmp_path / "generator.pt")
    with pytest.raises(InputError, match="config.json: no such file"):
        HiFiGANVocoder.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="config.json: not JSON"):
        HiFiGANVocoder.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(dgslm[1]))
    torch.save({"model": {}}, tmp_path / "generator.pt")
    with pytest.raises(InputError, match=r"\{\"generator\": weights\} is expected, found model"):
        HiFiGANVocoder.load(tmp_path)


def test_names_and_shapes_are_those_of_the_published_checkpoint(data: Path) -> None:
    listing = data / "keys" / "codehifigan_expresso_km2000_generator.txt"
    published = {}
    for line in listing.read_text().splitlines():
        if not line.startswith("#"):
            name, shape = line.split("\t")
            published[name] = tuple(int(size) for size in shape.strip("(),").split(","))
    config = {**published_config(units=2000, speakers=200, styles=100), "embedding_dim": 128, "model_in_dim": 384}
    with torch.device("meta"):
        generator = UnitGenerator({**config, "upsample_initial_channel": 512})
    assert {name: tuple(tensor.shape) for name, tensor in generator.state_dict().items()} == published
    assert generator.hop == 320 and len(published) == 294


@pytest.mark.parametrize(
    ("units", "rate", "codebook", "message"),
    [
        (50, 50.0, None, None),
        (50, 25.0, None, "the codebook's units come at 25 Hz, the vocoder takes 50 Hz"),
        (60, 50.0, None, "the codebook has 60 units, the vocoder 50"),
        (50, 50.0, "0123456789ab", "the vocoder is for the codebook 0123456789ab, this one is "),
    ],
)
def test_codebook_and_vocoder_must_belong_together(
    tmp_path: Path, units: int, rate: float, codebook: str | None, message: str | None
) -> None:
    config = {**published_config(), **({"codebook": codebook} if codebook else {})}
    parser = argparse.ArgumentParser()
    add_vocoder_options(parser, {"vocoder-checkpoint": "--checkpoint"})
    checkpoint = write(tmp_path, config, published_weights(config))
    options = parser.parse_args(["--vocoder", "hifigan", "--checkpoint", str(checkpoint), "--device", "cpu"])
    book = Codebook(torch.zeros(units, 40), "logmel", {}, rate)
    if message is None:
        assert vocoder_from(options, book).num_units == 50
        return
    with pytest.raises(InputError, match=message):
        vocoder_from(options, book)


def test_the_command_makes_stereo_files(expresso: Any, checkout: Path, run_command: Any, tmp_path: Path) -> None:
    units = random_units(40, 2)
    row = {
        "audio": "talk",
        **{name: " ".join(map(str, units[:, c].tolist())) for c, name in enumerate(("unitA", "unitB"))},
    }
    (tmp_path / "units.jsonl").write_text(json.dumps(row) + "\n")
    script = checkout / "scripts/synthesize.py"
    options = ["--vocoder", "hifigan", "--checkpoint", expresso[0], "--speakers", "lj", "ex02", "--styles", "sad"]
    done = run_command(["python", script, tmp_path / "units.jsonl", tmp_path / "out", *options, "--duplicated"])
    assert "INFO" not in done.stdout + done.stderr and "Warning" not in done.stderr  # neither fairseq's nor torch's
    sound, rate = read_audio(tmp_path / "out" / "talk.wav")
    expected = HiFiGANVocoder.load(expresso[0], speakers=["lj", "ex02"], styles=["sad"]).decode(units[None])[0]
    assert rate == 16000
    torch.testing.assert_close(sound, expected, rtol=0, atol=1e-4)  # 16 bits


def test_published_ones_are_fetched_by_name(expresso: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    from speechdlm_ext.io.published import Published
    from speechdlm_ext.vocoders import hifigan_files

    folder, files = expresso[0].parent, ("generator.pt", "config.json", "speakers.txt", "styles.txt")
    table = [Published((folder / f).as_uri(), hashlib.sha256((folder / f).read_bytes()).hexdigest()) for f in files]
    monkeypatch.setitem(hifigan_files.PUBLISHED, "mine", tuple(table))
    monkeypatch.setenv("SPEECHDLM_CACHE", str(tmp_path))
    units = random_units(1, 9, 1)
    expected = HiFiGANVocoder.load(folder, speakers=["lj"]).decode(units)
    assert torch.equal(HiFiGANVocoder.load("mine", speakers=["lj"]).decode(units), expected)
    assert {path.name for path in (tmp_path / "mine").iterdir() if path.suffix != ".part"} == set(files)


def test_the_table_of_published_vocoders_is_the_listed_one(data: Path) -> None:
    from speechdlm_ext.vocoders.hifigan_files import PUBLISHED

    listing = data / "keys" / "textless_checkpoints.txt"
    listed = {tuple(line.split("\t")[1:]) for line in listing.read_text().splitlines() if "hifigan" in line}
    ours = {tuple(file) for name, files in PUBLISHED.items() if name != "dgslm-hifigan" for file in files}
    assert ours == listed and len(ours) == 18


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, (str(self.path), "w"))


def test_a_hostile_checkpoint_does_not_run(dgslm: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "v", dgslm[1], {})
    (tmp_path / "v" / "generator.pt").write_bytes(pickle.dumps({"generator": Hostile(tmp_path / "ran")}))
    with pytest.raises(InputError, match="generator.pt"):
        HiFiGANVocoder.load(path)
    assert not (tmp_path / "ran").exists()
