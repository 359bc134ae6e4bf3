"""The sbatch files of scripts/slurm on a real SLURM: arrays, parts of them, requeues, merges, two-node training."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from speechdlm_ext.asr import RecogniserOptions
from speechdlm_ext.asr.manifest_text import TextOptions, transcribe_manifest
from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.evaluation.training_runs import read_runs
from speechdlm_ext.io.audio import write_audio
from speechdlm_ext.io.manifest import read_jsonl
from speechdlm_ext.units.codebook import Codebook
from tests.helpers.binarized import write_corpus
from tests.helpers.commands import CHECKOUT
from tests.helpers.ctc_checkpoints import small_recogniser
from tests.helpers.slurm import Cluster

pytestmark = pytest.mark.long


def until(done: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.2)


def sbatch(cluster: Cluster, place: Path, *words: object) -> str:
    return cluster.run("sbatch", "--parsable", *words, cwd=place, OMP_NUM_THREADS="1").strip()


def ended(cluster: Cluster, job: str, seconds: float = 240) -> dict[int, str]:
    """The states of an array's tasks, when none is in the queue any more."""
    until(lambda: not cluster.run("squeue", "-h", "-j", job, check=False).strip(), seconds)
    return cluster.states(job)


def corpus(place: Path, count: int) -> tuple[Path, list[str]]:
    """A manifest in the place, and the options of its recogniser."""
    rows = []
    for number in range(count):
        path = place / "sound" / f"{number}.wav"
        wave = 0.3 * torch.randn(1, 8000 + 2000 * number, generator=torch.Generator().manual_seed(number))
        write_audio(path, wave.clamp(-1, 1), 16000)
        rows.append({"audio_filepath": str(path), "duration": wave.shape[1] / 16000})
    (place / "metadata").mkdir()
    manifest = place / "metadata" / "input.json"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest, ["--asr", small_recogniser(place / "model"), "--device", "cpu"]


def test_transcription_in_an_array_with_a_kill_a_requeue_and_a_merge(cluster: Cluster, place: Path) -> None:
    manifest, asr = corpus(place, 12)
    one = place / "one.json"
    transcribe_manifest(manifest, one, TextOptions(RecogniserOptions(asr[1], device="cpu")))
    script = "scripts/slurm/asr.sbatch"
    # A part of an array does not say how many shards there are: two of four must not do all.
    part = sbatch(cluster, place, "--array=1,3", script, manifest, *asr)
    job = sbatch(cluster, place, "--array=0-3%2", script, manifest, *asr)
    merge = sbatch(
        cluster, place, f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes", "--output=logs/merge.out",
        f"--wrap=.venv/bin/python data_prep/merge_manifest.py {manifest} --in-place",
    )  # fmt: skip
    log = place / "logs" / f"asr_{job}_1.out"
    until(log.exists)
    cluster.run("scontrol", "requeue", f"{job}_1")  # wherever it is
    until(lambda: any(state == "COMPLETED" for state in cluster.states(job).values()))
    states = ended(cluster, job)
    assert set(states.values()) == {"COMPLETED"} and sorted(states) == [0, 1, 2, 3]
    until(lambda: not cluster.run("squeue", "-h", "-j", merge, check=False).strip())
    assert manifest.read_bytes() == one.read_bytes(), (place / "logs/merge.out").read_text()
    assert not list(manifest.parent.glob("*.text*"))
    assert set(ended(cluster, part).values()) == {"FAILED"}
    assert "give the number of shards, slurm:N" in (place / "logs" / f"asr_{part}_1.out").read_text()


def test_a_new_dataset_from_scratch(cluster: Cluster, place: Path) -> None:
    """docs/cluster.md: speech and silence, resynthesis, units, text, each as an array whose tasks run side by side."""
    _, asr = corpus(place, 6)
    encoder = LogMelEncoder()
    centroids = torch.randn(20, encoder.dim, generator=torch.Generator().manual_seed(1))
    Codebook(centroids).for_encoder(encoder).save(place / "codebook.safetensors")
    python, merge = ".venv/bin/python", "data_prep/merge_manifest.py"
    job = sbatch(cluster, place, "--array=0-1", "scripts/slurm/vad.sbatch", "sound", "metadata/all", "--vad", "energy",
                 "--num-workers", 1)  # fmt: skip
    assert set(ended(cluster, job).values()) == {"COMPLETED"}, (place / f"logs/vad_{job}_0.out").read_text()
    cluster.run(python, merge, "metadata/all.jsonl", cwd=place)
    rows = read_jsonl(place / "metadata" / "all.jsonl")
    assert [row["audio_filepath"] for row in rows] == [str(place / "sound" / f"{number}.wav") for number in range(6)]
    sts = sbatch(cluster, place, "--array=0-1", "scripts/slurm/sts.sbatch", "metadata/all.jsonl", "sound", "--device",
                 "cpu", "--codebook", "codebook.safetensors")  # fmt: skip
    units = sbatch(cluster, place, "--array=0-1", "scripts/slurm/units.sbatch", "metadata/all.jsonl", "exp/units.jsonl",
                   "--device", "cpu", "--codebook", "codebook.safetensors")  # fmt: skip
    job = sbatch(cluster, place, "--array=0-1", "scripts/slurm/asr.sbatch", "metadata/all.jsonl", *asr)
    assert set(ended(cluster, job).values()) == {"COMPLETED"}, (place / f"logs/asr_{job}_0.out").read_text()
    cluster.run(python, merge, "metadata/all.jsonl", "--in-place", cwd=place)
    cluster.run(python, "scripts/transcribe.py", "metadata/all.jsonl", "--check", cwd=place)
    assert set(ended(cluster, sts).values()) == {"COMPLETED"}, (place / f"logs/sts_{sts}_0.out").read_text()
    assert sorted(path.name for path in (place / "output/sound").glob("*.wav")) == [f"{n}.wav" for n in range(6)]
    assert set(ended(cluster, units).values()) == {"COMPLETED"}, (place / f"logs/units_{units}_0.out").read_text()
    joined, once = "exp/units.jsonl", "exp/once.jsonl"
    cluster.run(python, merge, "metadata/all.jsonl", joined, "--output", joined, cwd=place)
    cluster.run(python, "data_prep/encode_units.py", "metadata/all.jsonl", once, "--device", "cpu", "--codebook",
                "codebook.safetensors", cwd=place)  # fmt: skip
    assert (place / joined).read_bytes() == (place / once).read_bytes() and len(read_jsonl(place / joined)) == 6
    after = read_jsonl(place / "metadata" / "all.jsonl")
    assert [{**row, **{key: new[key] for key in ("text", "words") if key in new}} for row, new in
            zip(rows, after, strict=True)] == after and all("text" in row for row in after)  # fmt: skip


def test_error_rates_of_pairs_in_an_array_its_figure_and_a_task_that_was_lost(cluster: Cluster, place: Path) -> None:
    """docs/unit_to_codec.md: table, figure, units and sound are those of one process, byte for byte."""
    manifest, asr = corpus(place, 3)
    rows = [{**row, "text": "a b a"} for row in read_jsonl(manifest)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    encoder = LogMelEncoder()
    for k in (6, 20):
        centroids = torch.randn(k, encoder.dim, generator=torch.Generator().manual_seed(k))
        Codebook(centroids).for_encoder(encoder).save(place / f"k{k}.safetensors")
    options = [*asr, "--codebook", "k{k}.safetensors", "--num-neighbors", "0", "--num-workers", "1",
               "--pairs", "k6-l0", "k6-l50", "k20-l0", "k20-l50"]  # fmt: skip
    once = cluster.run(".venv/bin/python", "scripts/plot_wer_bitrate.py", manifest, "once", *options, cwd=place)
    script = ["scripts/slurm/wer.sbatch", manifest, "exp/figure", *options]
    part = sbatch(cluster, place, "--array=1,2", *script)
    job = sbatch(cluster, place, "--array=0-2%2", *script)
    drawing = shlex.join([".venv/bin/python", "scripts/plot_wer_bitrate.py", *map(str, script[1:])])
    draw = sbatch(cluster, place, f"--dependency=afterok:{job}", "--output=logs/draw.out", f"--wrap={drawing}")
    assert ended(cluster, job) == dict.fromkeys(range(3), "COMPLETED"), (place / f"logs/wer_{job}_0.out").read_text()
    shares = [(place / f"logs/wer_{job}_{task}.out").read_text() for task in range(3)]
    assert [share.count("bit/s, WER") for share in shares] == [2, 1, 1]

    def made(folder: str) -> dict[str, bytes]:
        files = (path for path in (place / folder).rglob("*") if path.is_file())
        return {
            str(path.relative_to(place / folder)): path.read_bytes().replace(folder.encode(), b"") for path in files
        }

    ended(cluster, draw)
    assert set(ended(cluster, part).values()) == {"FAILED"}  # how many shards there are, a part does not say
    assert "give the number of shards, slurm:N" in (place / f"logs/wer_{part}_1.out").read_text()
    expected = made("once")
    assert made("exp/figure") == expected and {"wer_bitrate.csv", "wer_bitrate.png"} < expected.keys()
    assert len([name for name in expected if name.endswith(".wav")]) == 12 and once.count("bit/s, WER") == 4
    shutil.rmtree(place / "exp" / "figure" / "k20-l0")  # of task 2
    again = sbatch(cluster, place, "--array=2", *script, "--shard", "slurm:3")
    assert ended(cluster, again) == {2: "COMPLETED"}
    cluster.run(*shlex.split(drawing), cwd=place)
    assert made("exp/figure") == expected


@pytest.mark.parametrize("sent", ["USR1", "TERM"])
def test_a_task_near_its_time_limit_is_queued_again_and_one_that_was_killed_is_redone(
    cluster: Cluster, place: Path, sent: str
) -> None:
    """USR1 to the script ends its command with its work kept, and queues the task again; TERM only ends it."""
    manifest, asr = corpus(place, 6)
    slow = place / "sound" / "4.wav"  # of shard 0/2: reading it waits
    sound = slow.read_bytes()
    slow.unlink()
    cluster.run("mkfifo", slow)
    script = "scripts/slurm/asr.sbatch"
    job = sbatch(cluster, place, "--array=0-1", script, manifest, *asr)
    partial = place / "metadata" / "input.json.text.shard-0-of-2.partial"
    until(lambda: partial.exists() and partial.read_bytes().count(b"\n") == 3)  # settings, 0, 2
    cluster.run("scancel", "--batch", f"--signal={sent}", f"{job}_0")
    log = place / "logs" / f"asr_{job}_0.out"
    until(lambda: "stopped by SIGUSR1: the same command continues" in log.read_text())
    if sent == "USR1":
        until(lambda: "is queued again" in log.read_text())
    else:
        assert ended(cluster, job) == {0: "FAILED", 1: "COMPLETED"} and "is queued again" not in log.read_text()
    assert partial.read_bytes().count(b"\n") == 3
    slow.unlink()
    slow.write_bytes(sound)
    if sent == "TERM":
        job = sbatch(cluster, place, "--array=0", script, manifest, *asr, "--shard", "slurm:2")
        log = place / "logs" / f"asr_{job}_0.out"
    assert set(ended(cluster, job).values()) == {"COMPLETED"}
    assert "2 of 3 recordings have a text already" in log.read_text()
    for path in (place / "metadata").glob("*.shard-1-of-2"):  # as if its task had been lost
        path.unlink()
    again = sbatch(cluster, place, "--array=1", script, manifest, *asr, "--shard", "slurm:2")
    assert ended(cluster, again) == {1: "COMPLETED"}
    merged = cluster.run(".venv/bin/python", "data_prep/merge_manifest.py", manifest, "--in-place", cwd=place)
    assert "6 rows" in merged and all("text" in row for row in read_jsonl(manifest))


def units(place: Path) -> Path:
    data = write_corpus(place / "data", [[3, 0, 1, 4, 4, 5, 1][: 2 + i % 6] for i in range(12)])
    for ending in ("bin", "idx"):
        (data / f"valid.{ending}").write_bytes((data / f"train.{ending}").read_bytes())
    return data


def train_words(data: Path, save_dir: Path) -> list[object]:
    return [
        "fairseq-train", data, "--user-dir", CHECKOUT / "speechdlm_ext", "--task", "unit_language_modeling",
        "--arch", "unit_lm_small", "--decoder-embed-dim", 16, "--decoder-ffn-embed-dim", 32, "--decoder-layers", 1,
        "--decoder-attention-heads", 2, "--criterion", "unit_lm_criterion", "--batch-size", 2, "--optimizer", "adam",
        "--lr", 0.01, "--max-update", 300, "--save-interval-updates", 10, "--keep-interval-updates", 2,
        "--no-epoch-checkpoints", "--disable-validation", "--save-dir", save_dir, "--cpu", "--log-format", "json",
        "--num-workers", 0, "--seed", 3,
    ]  # fmt: skip


def test_training_on_two_nodes_requeued_ends_as_an_undisturbed_one(cluster: Cluster, place: Path) -> None:
    data = units(place)
    options = ["--nodes=2", "--gres=none", "--export=ALL,PROCESSES=1", "scripts/slurm/train.sbatch"]
    calm = sbatch(cluster, place, *options, *train_words(data, place / "calm"))
    disturbed = sbatch(cluster, place, *options, *train_words(data, place / "disturbed"))
    until(lambda: list((place / "disturbed").glob("checkpoint_*_*.pt")), 200)
    cluster.run("scontrol", "requeue", disturbed)
    for job in (calm, disturbed):
        until(lambda job=job: not cluster.run("squeue", "-h", "-j", job, check=False).strip(), 400)
        log = (place / "logs" / f"train_{job}.out").read_text()
        assert "JobState=COMPLETED" in cluster.run("scontrol", "show", "job", job), log[-2000:]
        assert '"num_updates": "300"' in log or "num_updates" in log
    assert "Loaded checkpoint" in log
    weights = [torch.load(place / name / "checkpoint_last.pt", weights_only=False) for name in ("calm", "disturbed")]
    assert all(torch.equal(weights[0]["model"][key], weights[1]["model"][key]) for key in weights[0]["model"])
    assert [one["optimizer_history"][-1]["num_updates"] for one in weights] == [300, 300]


def test_training_nothing_is_never_a_success(cluster: Cluster, place: Path) -> None:
    """fairseq's own ways to start processes under srun, with other numbers of tasks than they expect."""
    data = units(place)
    words = [str(word) for word in train_words(data, place / "none")]
    words[0] = str(place / ".venv/bin/fairseq-train")
    port = ["--distributed-port", "23461"]
    for name, tasks in (("alone", ["-n1"]), ("two", ["-n2", "-N2"])):
        job = sbatch(
            cluster, place, *tasks, f"--output=logs/{name}.out", f"--wrap=srun {' '.join([*words, *port])}"
        )  # fmt: skip
        until(lambda job=job: not cluster.run("squeue", "-h", "-j", job, check=False).strip(), 200)
        log = (place / "logs" / f"{name}.out").read_text()
        assert "JobState=FAILED" in cluster.run("scontrol", "show", "job", job), log
        assert "torchrun --nnodes" in log and "Traceback" not in log
    assert not list((place / "none").glob("*.pt"))
    # What is wrong is said in one line by processes that work together, too.
    (data / "valid.bin").unlink()
    job = sbatch(cluster, place, "--gres=none", "--export=ALL,PROCESSES=1", "scripts/slurm/train.sbatch", *words)
    until(lambda: not cluster.run("squeue", "-h", "-j", job, check=False).strip(), 200)
    assert "fairseq-train: error: " in (log := (place / "logs" / f"train_{job}.out").read_text()), log


def test_a_grid_as_an_array_and_as_a_multirun_that_submits_its_jobs(cluster: Cluster, place: Path) -> None:
    tiny = [
        f"task.data={units(place)}", "model.decoder_embed_dim=4,8", "model.decoder_hidden_size=6",
        "optimization.max_epoch=2", "dataset.num_workers=0", "common.cpu=true",
    ]  # fmt: skip
    job = sbatch(cluster, place, "--array=0-1", "--gres=none", "scripts/slurm/grid.sbatch", "unit_lstm", "array", *tiny)
    hydra = cluster.run(
        ".venv/bin/fairseq-hydra-train", "--multirun", "--config-dir", place / "configs", "--config-name", "unit_lstm",
        "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=30", "hydra.launcher.tasks_per_node=1",
        "hydra.launcher.nodes=1", "hydra.sweep.dir=multirun", *tiny, cwd=place, timeout=500, OMP_NUM_THREADS="1",
        SPEECHDLM_USER_DIR=str(CHECKOUT / "speechdlm_ext"),
    )  # fmt: skip
    assert set(ended(cluster, job).values()) == {"COMPLETED"}, (place / "logs" / f"grid_{job}_0.out").read_text()[
        -2000:
    ]
    found = {folder: read_runs(place / folder) for folder in ("array", "multirun")}
    assert sorted(run.name for run in found["array"]) == ["decoder_embed_dim_4", "decoder_embed_dim_8"]
    assert [run.best for run in found["array"]] == [run.best for run in found["multirun"]], hydra
