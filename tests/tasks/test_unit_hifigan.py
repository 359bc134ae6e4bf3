"""Training a unit HiFi-GAN with fairseq-train: it learns, goes on where it stopped, and becomes a vocoder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
import torch
import torchaudio
from hydra.core.global_hydra import GlobalHydra
from hydra.experimental import compose, initialize_config_dir
from omegaconf import OmegaConf

import speechdlm_ext  # noqa: F401 - registers
from speechdlm_ext.checkpoints.unit_hifigan import export_vocoder
from speechdlm_ext.criterions.unit_hifigan_criterion import UnitHiFiGANCriterion
from speechdlm_ext.data.crops import read_crop
from speechdlm_ext.data.unit_wave_dataset import UnitWaveDataset, match_rows
from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.io.audio import read_audio
from speechdlm_ext.models.unit_hifigan import UnitHiFiGAN, UnitHiFiGANConfig, generator_config
from speechdlm_ext.modules.discriminators import Discriminators
from speechdlm_ext.tasks.unit_hifigan_task import UnitHiFiGANTask, UnitHiFiGANTaskConfig
from speechdlm_ext.units import Codebook
from speechdlm_ext.units.kmeans import train_codebook
from speechdlm_ext.vocoders import HiFiGANVocoder
from tests.helpers.features import sample_features

K = 50
UPDATES = 24
SIZES = (
    "--upsample-rates 8,8,5 --upsample-kernel-sizes 16,16,11 --upsample-initial-channel 64 --resblock-kernel-sizes 3 "
    "--embedding-dim 32 --periods 2,5 --scales 1 --discriminator-channels 1"
)


@pytest.fixture(scope="module")
def corpus(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read sentences, two speakers: manifest, codebook, and units in train.jsonl and valid.jsonl."""
    folder = tmp_path_factory.mktemp("corpus")
    files = sorted((data / "speech/ljspeech").glob("*.flac"))[:8]
    files += sorted((data / "speech/librispeech_test_other").glob("*.ogg"))[:3]
    rows = []
    for path in files:
        info = soundfile.info(path)
        speaker = "lj" if path.stem.startswith("LJ") else "ls"
        rows.append({"id": path.stem, "audio_filepath": str(path), "duration": info.duration, "channels": 1,
                     "speaker": speaker})  # fmt: skip
    encoder = LogMelEncoder()
    features, levels = sample_features(rows, encoder, 6000, seed=1)
    codebook = train_codebook(features, encoder, K, 1, levels)
    codebook.save(folder / "codebook.safetensors")
    units = []
    for row in rows:
        wave, _ = read_audio(row["audio_filepath"], 16000)
        labels = codebook.quantize(encoder.encode(wave[0], 16000)).tolist()
        facts = {"frame_rate": 50.0, "codebook": codebook.fingerprint}
        units.append({"audio": row["id"], "unitA": " ".join(map(str, labels)), **facts})
    write_lines(folder / "manifest.jsonl", rows)
    held_out = {**units[0], "unitA": " ".join(units[0]["unitA"].split()[:150])}  # 3 s
    write_lines(folder / "valid.jsonl", [held_out])
    write_lines(folder / "train.jsonl", units[1:])
    return folder


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(run_loaded: Any, checkout: Path, corpus: Path, save_dir: Path, *options: str, check: bool = True) -> Any:
    command = (
        f"fairseq-train {corpus} --user-dir {checkout / 'speechdlm_ext'} --cpu --task unit_hifigan_task "
        f"--manifest {corpus / 'manifest.jsonl'} --codebook {corpus / 'codebook.safetensors'} --speaker-field speaker "
        f"--crop-frames 8 --arch unit_hifigan {SIZES} --criterion unit_hifigan_criterion --optimizer adam --lr 0.003 "
        f"--batch-size 4 --max-update {UPDATES} --save-interval-updates {UPDATES // 2} --keep-interval-updates 9 "
        f"--no-epoch-checkpoints --best-checkpoint-metric mel_loss --save-dir {save_dir} --log-format json "
        "--log-interval 1 --seed 1 --num-workers 0"
    )
    return run_loaded([*command.split(), "--adam-betas", "(0.8, 0.99)", *options], check=check)


@pytest.fixture(scope="module")
def trained(
    corpus: Path, checkout: Path, run_loaded: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """Checkpoints after half of the updates and after all, and the log."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, train(run_loaded, checkout, corpus, folder).stdout


def untrained_loss(corpus: Path) -> float:
    """The mel loss of held-out crops before training."""
    task = UnitHiFiGANTask.setup_task(
        UnitHiFiGANTaskConfig(
            data=str(corpus), manifest=str(corpus / "manifest.jsonl"), num_units=K, crop_frames=8, seed=1
        )
    )
    task.load_dataset("valid")
    data = task.dataset("valid")
    torch.manual_seed(1)
    cfg = UnitHiFiGANConfig(upsample_initial_channel=64, resblock_kernel_sizes="3", embedding_dim=32)
    model = UnitHiFiGAN(generator_config(cfg, K, 0, 16000)).eval()
    with torch.no_grad():
        _, crops, logs = UnitHiFiGANCriterion(task, 45.0, 2.0, 80, 1024, 256)(model, data.collater([*data]))
    return float(logs["mel_loss"]) / crops


def test_the_mel_loss_falls(trained: tuple[Path, str], corpus: Path) -> None:
    logs = [json.loads(line) for line in re.findall(r"train_inner \| (\{.*\})", trained[1])]
    losses = [float(log["mel_loss"]) for log in logs]
    assert len(losses) == UPDATES
    assert sum(losses[-12:]) / 12 < 0.9 * sum(losses[:3]) / 3
    valid = [json.loads(line) for line in re.findall(r"valid \| (\{.*\})", trained[1])][-1]
    assert float(valid["valid_mel_loss"]) < 0.75 * untrained_loss(corpus) and "valid_discriminator_loss" not in valid
    # Neither side has given up: judgements are neither all right (0) nor a coin's (3 times 0.5, the parts' sum).
    assert 0.1 < float(logs[-1]["discriminator_loss"]) < 3


def test_going_on_gives_the_same_weights(
    trained: tuple[Path, str], corpus: Path, checkout: Path, run_loaded: Any, tmp_path: Path
) -> None:
    (half,) = trained[0].glob(f"checkpoint_*_{UPDATES // 2}.pt")
    train(run_loaded, checkout, corpus, tmp_path, "--restore-file", str(half))
    states = [torch.load(folder / "checkpoint_last.pt", weights_only=False) for folder in (trained[0], tmp_path)]
    assert [state["optimizer_history"][-1]["num_updates"] for state in states] == [UPDATES, UPDATES]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(states[1]["model"][name], tensor), name
    start = torch.load(half, weights_only=False)["model"]
    moved = {
        name.partition(".")[0] for name, tensor in states[0]["model"].items() if not torch.equal(start[name], tensor)
    }
    assert moved == {"generator", "discriminators"}


def test_the_export_is_a_vocoder_that_has_learned_the_units(
    trained: tuple[Path, str], corpus: Path, tmp_path: Path
) -> None:
    export_vocoder(trained[0] / "checkpoint_last.pt", tmp_path / "vocoder")
    assert (tmp_path / "vocoder/speakers.txt").read_text() == "lj\nls\n"
    vocoder = HiFiGANVocoder.load(tmp_path / "vocoder", speakers=["lj"])
    codebook = Codebook.load(corpus / "codebook.safetensors")
    assert (vocoder.num_units, vocoder.frame_rate, vocoder.sample_rate) == (K, 50.0, 16000)
    assert vocoder.codebook_fingerprint == codebook.fingerprint
    row = json.loads((corpus / "valid.jsonl").read_text().splitlines()[0])
    units = torch.tensor([int(unit) for unit in row["unitA"].split()])
    rows = map(json.loads, (corpus / "manifest.jsonl").read_text().splitlines())
    (path,) = [one["audio_filepath"] for one in rows if one["id"] == row["audio"]]
    wave = read_audio(path, 16000)[0][0, : len(units) * 320]
    mel = torchaudio.transforms.MelSpectrogram(16000, 512, hop_length=160, n_mels=40, power=1)

    def distance(sound: torch.Tensor) -> float:
        return float((torch.log(mel(wave) + 1e-3) - torch.log(mel(sound) + 1e-3)).abs().mean())

    right = distance(vocoder.decode(units[None, :, None])[0, 0])
    others = torch.randperm(K, generator=torch.Generator().manual_seed(1))[units]
    assert right < 0.93 * distance(vocoder.decode(others[None, :, None])[0, 0])
    assert right < 0.85 * distance(torch.zeros(len(wave)))
    with pytest.raises(InputError, match="generator.pt exists already"):
        export_vocoder(trained[0] / "checkpoint_last.pt", tmp_path / "vocoder")
    # The weights are those of training, to the bit, under the published names.
    state = torch.load(trained[0] / "checkpoint_last.pt", weights_only=False)["model"]
    published = torch.load(tmp_path / "vocoder/generator.pt")["generator"]
    assert {f"generator.{name}" for name in published} == {name for name in state if name.startswith("generator.")}
    assert {"conv_pre.weight_g", "ups.0.weight_v", "dict.weight", "spkr.weight"} <= published.keys()


def small_model(speakers: int = 0) -> UnitHiFiGAN:
    torch.manual_seed(1)
    cfg = UnitHiFiGANConfig(upsample_initial_channel=32, resblock_kernel_sizes="3", embedding_dim=8)
    return UnitHiFiGAN(generator_config(cfg, 7, speakers, 16000), Discriminators([2, 3], 2, 1)).double()


def test_each_side_gets_the_gradient_of_its_own_loss() -> None:
    """One backward of the criterion's sum against two losses written out, each differentiated for its own side."""
    model = small_model()
    units, wave = torch.randint(7, (3, 8)), 0.1 * torch.randn(3, 2560, dtype=torch.double)
    task: Any = SimpleNamespace(cfg=SimpleNamespace(sample_rate=16000))
    criterion = UnitHiFiGANCriterion(task, 0.0, 2.0, 20, 512, 128)
    sample = {"net_input": {"units": units, "wave": wave, "speakers": None}, "nsentences": 3, "ntokens": 24}
    model.train()
    model.discriminators.eval()  # spectral norm moves with every pass in training; here it must stand still
    loss, size, logs = criterion(model, sample)
    (loss / size).backward()
    got = {name: weight.grad.clone() for name, weight in model.named_parameters()}

    sound = model.generator.synthesize(units)
    real, real_features = model.discriminators(wave)
    fake, _ = model.discriminators(sound.detach())
    of_discriminators = sum(
        ((1 - r.float()) ** 2).mean() + (f.float() ** 2).mean() for r, f in zip(real, fake, strict=True)
    )
    judged, features = model.discriminators(sound)
    of_generator = sum(((1 - j.float()) ** 2).mean() for j in judged)
    for one, other in zip(real_features, features, strict=True):
        of_generator = of_generator + 2 * sum(
            (a.float() - b.float()).abs().mean() for a, b in zip(one, other, strict=True)
        )
    for side, of_side in (("discriminators", of_discriminators), ("generator", of_generator)):
        named = [(name, weight) for name, weight in model.named_parameters() if name.startswith(side)]
        expected = torch.autograd.grad(of_side, [weight for _, weight in named], retain_graph=True)
        assert any(float(gradient.abs().max()) > 0 for gradient in expected)
        for (name, _), gradient in zip(named, expected, strict=True):
            torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-9, msg=name)
    assert all(weight.requires_grad for weight in model.parameters())
    assert float(logs["discriminator_loss"]) / 3 == pytest.approx(of_discriminators.item(), rel=1e-5)


def test_discriminators_have_the_published_shapes() -> None:
    with torch.device("meta"):
        parts = Discriminators([2, 3, 5, 7, 11], 3).parts
    assert sum(weight.numel() for part in parts[:5] for weight in part.parameters()) == 41_105_770
    assert [tuple(layer.weight.shape) for layer in parts[0].layers] == [
        (32, 1, 5, 1), (128, 32, 5, 1), (512, 128, 5, 1), (1024, 512, 5, 1), (1024, 1024, 5, 1)
    ]  # fmt: skip
    assert [tuple(layer.weight.shape) for layer in parts[6].layers] == [
        (128, 1, 15), (128, 32, 41), (256, 8, 41), (512, 16, 41), (1024, 32, 41), (1024, 64, 41), (1024, 1024, 5)
    ]  # fmt: skip


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_crops_are_parts_of_the_whole(data: Path, tmp_path: Path, rate: int) -> None:
    wave, _ = read_audio(data / "speech/calls/google_two_channel.flac", rate)
    soundfile.write(tmp_path / "a.wav", wave.T.numpy(), rate, subtype="FLOAT")
    whole, _ = read_audio(tmp_path / "a.wav", 16000)
    for channel, first, count in ((0, 0, 640), (1, 3200, 2560), (0, 31999, 77), (1, whole.shape[1] - 320, 320)):
        crop = read_crop(tmp_path / "a.wav", channel, first, count, 16000, rate)
        torch.testing.assert_close(crop, whole[channel, first : first + count], rtol=0, atol=1e-5)
    beyond = read_crop(tmp_path / "a.wav", 0, whole.shape[1] - 10, 5000, 16000, rate)
    assert len(beyond) == 5000 and float(beyond[300:].abs().max()) == 0
    with pytest.raises(InputError, match="has 2 channels, channel 3 is needed"):
        read_crop(tmp_path / "a.wav", 2, 0, 10, 16000, rate)


def test_crops_of_an_epoch(data: Path) -> None:
    path = str(data / "speech/calls/google_two_channel.flac")
    recordings = {"call": {"id": "call", "audio_filepath": path, "channels": 2}}
    whole, _ = read_audio(path, 16000)
    rows = [
        {"audio": "call-1", "recording": "call", "start": 2.0, "unitA": " ".join(map(str, range(100))),
         "unitB": "3 4", "unitA.durations": "1 " * 100, "unitB.durations": "40 60"},
        {"audio": "fast", "copy_of": "call", "unitA": "1 2", "unitB": "1 2"},
    ]  # fmt: skip
    items = match_rows(rows, recordings, {"call": [5, 2]}, 100)
    assert [(item.channel, item.speaker, len(item.units)) for item in items] == [(0, 5, 100), (1, 2, 100)]
    data = UnitWaveDataset(items, 30, 320, 16000, shuffle=True, seed=3)
    assert len(data) == 6
    seen = set()
    for epoch in (1, 2):
        data.set_epoch(epoch)
        for index in range(6):
            item = data[index]
            assert torch.equal(item["wave"], data[index]["wave"])
            if item["speaker"] == 5:  # its units are the numbers of its frames
                first = int(item["units"][0])
                assert item["units"].tolist() == list(range(first, first + 30))
                start = 32000 + first * 320
                torch.testing.assert_close(item["wave"], whole[0, start : start + 9600], rtol=0, atol=1e-6)
                seen.add((epoch, first))
    assert len({first for _, first in seen}) > 3 and {epoch for epoch, _ in seen} == {1, 2}
    batch = data.collater([data[0], data[5]])["net_input"]
    assert batch["units"].shape == (2, 30) and batch["wave"].shape == (2, 9600) and batch["speakers"].tolist() == [5, 2]
    with pytest.raises(InputError, match="the longest row has 100 frames, a crop 101"):
        UnitWaveDataset(items, 101, 320, 16000)
    with pytest.raises(InputError, match="unit 99; there is 0 to 49"):
        match_rows(rows[:1], recordings, {}, 50)
    with pytest.raises(InputError, match="the manifest has no recording call"):
        match_rows(rows[:1], {}, {}, 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--upsample-rates", "8,8,4"], "make 256 samples of a frame, 16000 Hz and 50 frames per second are 320"),
        (["--crop-frames", "9999"], "a crop 9999: take a shorter --crop-frames"),
        (["--speaker-field", "who"], "who is None; a speaker's name"),
    ],
)
def test_wrong_options(corpus: Path, options: list[str], message: str) -> None:
    cfg = UnitHiFiGANTaskConfig(
        data=str(corpus), manifest=str(corpus / "manifest.jsonl"), codebook=str(corpus / "codebook.safetensors"), seed=1
    )
    model = UnitHiFiGANConfig()
    name, value = options[0].removeprefix("--").replace("-", "_"), options[1]
    part = model if hasattr(model, name) else cfg
    setattr(part, name, type(getattr(part, name) or "")(value))
    with pytest.raises(InputError, match=message):
        task = UnitHiFiGANTask.setup_task(cfg)
        with torch.device("meta"):
            UnitHiFiGAN.build_model(model, task)
        task.load_dataset("train")


def test_units_of_another_codebook_are_refused(corpus: Path) -> None:
    cfg = UnitHiFiGANTaskConfig(data=str(corpus), manifest=str(corpus / "manifest.jsonl"), num_units=K, seed=1)
    task = UnitHiFiGANTask.setup_task(cfg)
    task.load_dataset("valid")
    for name, value in (("codebook", "another"), ("frame_rate", 25.0)):
        setattr(task, name, value)
        with pytest.raises(InputError, match=f"has {name} .*, expected is {value}"):
            task.load_dataset("valid")
        setattr(task, name, None)
    cfg.num_units = None
    with pytest.raises(InputError, match="--codebook or --num-units is needed"):
        UnitHiFiGANTask.setup_task(cfg)


@pytest.mark.commands
def test_both_recipes_build(checkout: Path, corpus: Path) -> None:
    from fairseq import criterions, tasks
    from fairseq.dataclass.initialize import add_defaults, hydra_init
    from fairseq.models import build_model

    sizes = {}
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(config_dir=str(checkout / "configs")):
        patch.setenv("SPEECHDLM_USER_DIR", str(checkout / "speechdlm_ext"))
        for name in ("unit_hifigan", "unit_hifigan_small"):
            hydra_init(name)
            places = {
                "data": corpus,
                "manifest": corpus / "manifest.jsonl",
                "codebook": corpus / "codebook.safetensors",
            }
            cfg = compose(name, overrides=[f"task.{key}={place}" for key, place in places.items()])
            add_defaults(cfg)
            task = tasks.setup_task(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)).task)
            with torch.device("meta"):
                model = build_model(cfg.model, task)
            criterions.build_criterion(cfg.criterion, task)
            sizes[name] = sum(weight.numel() for weight in model.generator.parameters())
            assert cfg.checkpoint.best_checkpoint_metric == "mel_loss" and cfg.lr_scheduler._name == "step"
    # As published but for the tables: 50 units, no speakers or styles.
    assert sizes["unit_hifigan"] == 14_470_146 - (2000 - K + 200 + 100) * 128 - 2 * 128 * 7 * 512
    assert sizes["unit_hifigan_small"] < sizes["unit_hifigan"] / 14
