"""The task ``speech_recognition`` through fairseq's own commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechdlm_ext.errors import InputError
from speechdlm_ext.hub import CTCModel, SpeechClassifier
from speechdlm_ext.io.audio import audio_info
from speechdlm_ext.tasks.speech_recognition import SpeechRecognitionConfig, SpeechRecognitionTask
from tests.helpers.arpa import write_arpa
from tests.helpers.processes import Command
from tests.helpers.tensorboard import texts_of

pytestmark = pytest.mark.commands

TASK = shlex.split("--task speech_recognition --cpu --num-workers 0 --max-tokens 1500")
TRAIN = shlex.split(
    "--arch quartznet_5x5 --width 0.1 --no-spec-augment --criterion speech_ctc --optimizer novograd --lr 0.02 "
    "--novograd-betas (0.8,0.5) --lr-scheduler cosine_annealing --max-update 30 --no-epoch-checkpoints --seed 1 "
    "--log-format json --best-checkpoint-metric wer"
)
SENTENCES = {
    "LJ001-0002": "in being comparatively modern",
    "LJ001-0008": "has never been surpassed",
}


@pytest.fixture
def folder(data: Path, tmp_path: Path) -> Path:
    """Two sentences as training, validation and test data, with the vocabulary of their letters."""
    lines = ""
    for name, text in SENTENCES.items():
        row = {"audio_filepath": str(data / f"speech/ljspeech/{name}.flac"), "text": text, "duration": 1.7}
        lines += json.dumps(row) + "\n"
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.jsonl").write_text(lines)
    letters = sorted({letter for text in SENTENCES.values() for letter in text.replace(" ", "|")})
    (tmp_path / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in letters))
    return tmp_path


def logged(text: str, what: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(re.findall(rf"\| {what} \| (\{{.*\}})", text)[-1])
    return found


def test_train_validate_generate(folder: Path, run_loaded: Any, checkout: Path) -> None:
    user_dir, run = ["--user-dir", checkout / "speechdlm_ext"], folder / "run"
    words = ["fairseq-train", folder, *user_dir, "--save-dir", run, *TASK, *TRAIN, "--tensorboard-logdir", run / "tb"]
    done = run_loaded(words, env={"OMP_NUM_THREADS": "1"})
    said = done.stdout + done.stderr
    first, last = (
        json.loads(one)
        for one in re.findall(r"\| train \| (\{.*\})", said)[:: len(re.findall(r"\| train \| ", said)) - 1]
    )
    assert float(last["train_loss"]) < float(first["train_loss"]) / 4
    valid = logged(said, "valid")
    assert float(valid["valid_cer"]) <= 100 and valid["valid_impossible"] == "0"
    shown = [text for _, text in texts_of(run / "tb/valid", "examples")]
    assert shown and all(f"| {sentence} |" in shown[-1] for sentence in SENTENCES.values())
    path = ["--path", run / "checkpoint_last.pt"]
    again = run_loaded(["fairseq-validate", folder, *user_dir, *path, *TASK, "--log-format", "json"])
    assert logged(again.stdout + again.stderr, "valid")["valid_loss"] == valid["valid_loss"]
    generate = ["fairseq-generate", folder, *user_dir, *path, *TASK, "--gen-subset", "test", "--scoring", "wer"]
    done = run_loaded(generate)
    hypotheses = dict(re.findall(r"^H-(\d+)\t[-\d.]+\t(.*)$", done.stdout, re.MULTILINE))
    targets = dict(re.findall(r"^T-(\d+)\t(.*)$", done.stdout, re.MULTILINE))
    assert [targets[str(row)] for row in range(2)] == list(SENTENCES.values())
    assert re.search(r"Generate test with beam=5: WER: [\d.]+", done.stdout)
    model = CTCModel.from_pretrained(run)
    texts = model.transcribe(str(folder / "test.jsonl"))
    assert [hypotheses[str(row)].strip() for row in range(2)] == [text.text for text in texts]
    arpa = write_arpa(folder / "lm.arpa", dict.fromkeys(" ".join(SENTENCES.values()).split(), -1.0))
    beam = ["--lm-model", arpa, "--lm-weight", "2", "--beam", "30", "--nbest", "2", "--word-score", "1"]
    run_loaded([*generate, *beam, "--results-path", folder / "results"])
    written = (folder / "results/generate-test.txt").read_text()
    found = re.findall(r"^H-(\d+)\t([-\d.]+)\t(.*)$", written, re.MULTILINE)
    best = {row: text for row, _, text in reversed(found)}
    assert len(found) == 4 and "Generate test with beam=30: WER: " in written
    again = model.transcribe(str(folder / "test.jsonl"), lm_model=arpa, lm_weight=2, beam_size=30, word_score=1)
    assert [best[str(row)].strip() for row in range(2)] == [text.text for text in again]
    assert {word for text in again for word in text.split()} <= set(" ".join(SENTENCES.values()).split())
    failed = run_loaded([*generate, *beam[:2]], check=False)
    assert failed.returncode == 2 and "pass its --lm-weight" in failed.stderr.splitlines()[-1]
    letters = (folder / "dict.ltr.txt").read_text().splitlines()
    (folder / "dict.ltr.txt").write_text("\n".join(reversed(letters)) + "\n")  # as many, and others
    failed = run_loaded([*words, "--max-update", "40"], check=False)
    assert failed.returncode == 2 and "another vocabulary" in failed.stderr.splitlines()[-1]


def test_nemos_file_as_a_checkpoint(data: Path, folder: Path, run_loaded: Any, checkout: Path) -> None:
    nemo, checkpoint = data / "reference/nemo/ctc_char.nemo", folder / "model.pt"
    run_loaded(["python", checkout / "scripts/convert_nemo.py", nemo, checkpoint])
    words = ["--user-dir", checkout / "speechdlm_ext", "--path", checkpoint, *TASK, "--gen-subset", "test"]
    (folder / "dict.ltr.txt").unlink()
    done = run_loaded(["fairseq-generate", folder, *words, "--scoring", "wer"])
    wanted = CTCModel.from_pretrained(nemo).transcribe(str(folder / "test.jsonl"))[0]
    assert re.search(rf"^H-0\t[-\d.]+\t{re.escape(wanted)}$", done.stdout, re.MULTILINE)


def test_transcribe_with_a_language_model(data: Path, tmp_path: Path, run_loaded: Any, checkout: Path) -> None:
    nemo, arpa = data / "reference/nemo/ctc_char.nemo", write_arpa(tmp_path / "a.arpa", {"sea": -3.0, "tea": -1.0})
    audio = data / "speech/ljspeech/LJ001-0002.flac"
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio_filepath": str(audio), "duration": 1.8995625}) + "\n")
    command = ["python", checkout / "scripts/transcribe.py", tmp_path / "m.jsonl", tmp_path / "out.jsonl"]
    command += ["--asr", f"ctc:{nemo}", "--device", "cpu", "--lm-model", arpa, "--lm-weight", "3"]
    run_loaded([*command, "--beam", "20", "--word-score", "9"])
    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    (text,) = CTCModel.from_pretrained(nemo).transcribe(audio, lm_model=arpa, lm_weight=3, beam_size=20, word_score=9)
    assert row["text"] == text and {"sea", "tea"} >= set(text.split()) and text


@pytest.mark.parametrize(("target", "label"), [("label", "one"), ("frame_labels", "0 0 1 1 1 1 1 1 1 0")])
def test_labels(data: Path, tmp_path: Path, run_loaded: Any, checkout: Path, target: str, label: str) -> None:
    for split in ("train", "valid"):
        rows = ""
        for place, name in enumerate(SENTENCES):
            own = label if target == "frame_labels" or place else "two"
            audio = str(data / f"speech/ljspeech/{name}.flac")
            rows += json.dumps({"audio_filepath": audio, "offset": 0.1, "duration": 1.0, "label": own}) + "\n"
        (tmp_path / f"{split}.jsonl").write_text(rows)
    arch = "matchboxnet_3x1x64" if target == "label" else "marblenet_3x2x64_20ms"
    labels = "one,two" if target == "label" else "0,1"
    words = shlex.split(
        f"--arch {arch} --width 0.1 --no-spec-augment --target {target} --labels {labels} --criterion speech_labels "
        "--optimizer adam --lr 0.01 --max-update 25 --no-epoch-checkpoints --log-format json "
        f"--best-checkpoint-metric {'f1' if target == 'label' else 'auroc'} --maximize-best-checkpoint-metric"
    )
    place = ["--user-dir", checkout / "speechdlm_ext", "--save-dir", tmp_path / "run"]
    done = run_loaded(["fairseq-train", tmp_path, *place, *TASK, *words], env={"OMP_NUM_THREADS": "1"})
    said = done.stdout + done.stderr
    assert float(logged(said, "train")["train_accuracy"]) >= 90
    best = "f1" if target == "label" else "auroc"
    valid = [json.loads(line) for line in re.findall(r"\| valid \| (\{.*\})", said)]
    assert float(valid[-1][f"valid_best_{best}"]) == max(float(one[f"valid_{best}"]) for one in valid)
    assert "label → what was recognised: " in said
    found = SpeechClassifier.from_pretrained(tmp_path / "run").classify(str(tmp_path / "valid.jsonl"))
    assert len(found) == 2 and all(len(one.frames) == (50 if target == "frame_labels" else 0) for one in found)


def test_validation_of_a_detector_is_the_same_on_two_processes(
    data: Path, tmp_path: Path, run_loaded: Any, checkout: Path
) -> None:
    """Five rows: one process has a row less, so means of the processes' figures would be others."""
    rng, rows = np.random.default_rng(1), ""
    for count in (40, 31, 22, 47, 15):
        labels = " ".join(str(int(value)) for value in rng.random(count) < 0.4)
        audio, offset = str(data / "speech/ljspeech/LJ001-0002.flac"), round(float(rng.uniform(0, 0.9)), 2)
        row = {"audio_filepath": audio, "offset": offset, "duration": 0.02 * count, "label": labels}
        rows += json.dumps(row) + "\n"
    (tmp_path / "valid.jsonl").write_text(rows)
    run_loaded(
        ["python", checkout / "scripts/convert_nemo.py", data / "reference/nemo/frame_vad.nemo", tmp_path / "m.pt"]
    )
    words = ["fairseq-validate", tmp_path, "--user-dir", checkout / "speechdlm_ext", "--path", tmp_path / "m.pt"]
    words += ["--target", "frame_labels", "--labels", "0,1", *TASK, "--log-format", "json", "--batch-size", "1"]
    two, one = Command(words, tmp_path / "two", ranks=2), Command(words, tmp_path / "one")
    apart, together = (logged(command.wait(), "valid") for command in (two, one))
    for name in ("loss", "accuracy", "precision", "recall", "f1", "auroc"):
        assert 0 < float(together[f"valid_{name}"]) == float(apart[f"valid_{name}"]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, 'train.jsonl, line 1: no "text"'),
        (
            {"text": "in béing"},
            "1 characters outside the vocabulary, first in .*line 1: 'é' 1; pass --unknown-characters",
        ),
        ({"text": 3}, "line 1: text is 3, text is expected"),
        ({"audio_filepath": None}, "line 1: no audio_filepath"),
        ({"audio_filepath": "none.wav"}, "none.wav: no such file"),
        ({"duration": -1}, "line 1: duration is -1, seconds are expected"),
        ({"duration": 0.02}, "none of 1 utterances lasts 0.1 to 16.7 s"),
        ({"text": "in being " * 30}, "every text is longer than its recording's frames, which CTC cannot align"),
        ({"channel": 1}, "line 1: channel 1, .* has 1"),
        ({"offset": 9}, "has no samples from 9"),
        ({"duration": 4}, r"line 1: 1.90 of 4.00 s are in .*LJ001-0002.flac: it is cut off, or the manifest is of an"),
    ],
)
def test_bad_rows_are_named(folder: Path, change: dict[str, Any], message: str) -> None:
    row = {**json.loads((folder / "train.jsonl").read_text().splitlines()[0]), **change}
    row = {name: value for name, value in row.items() if value is not None}
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    task = SpeechRecognitionTask.setup_task(SpeechRecognitionConfig(data=str(folder), seed=1))
    task.frame_rate = 50.0
    with pytest.raises(InputError, match=message) as caught:
        task.load_dataset("train")
        task.datasets["train"][0]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--speeds 0.9,x", "--speeds 0.9,x: factors from 0.25 to 4"),
        ("--target label", "criterion speech_ctc is for --target text|no vocabulary"),
        ("--sample-rate 8000", "the model takes sound at 16000 Hz, --sample-rate is 8000"),
        ("--num-workers 1", "broken.wav is not audio that can be read"),
    ],
)
def test_bad_options_are_one_line(folder: Path, run_loaded: Any, checkout: Path, options: str, message: str) -> None:
    """Of the options, and of a recording that a worker cannot read."""
    if "workers" in options:
        (folder / "broken.wav").write_bytes(b"RIFF of nothing" * 100)
        row = {"audio_filepath": str(folder / "broken.wav"), "text": "in being", "duration": 1.7}
        (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    place = ["--user-dir", checkout / "speechdlm_ext", "--save-dir", folder / "run"]
    done = run_loaded(["fairseq-train", folder, *place, *TASK, *TRAIN, *shlex.split(options)], check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-800:]
    assert re.search(message, done.stderr.splitlines()[-1]), done.stderr[-500:]


@pytest.mark.long
def test_the_seeds_command(folder: Path, run_command: Any, checkout: Path) -> None:
    """``fairseq-hydra-train --config-dir configs --config-name quartznet_15x5`` with overrides, on fairseq's files."""
    for split in ("train", "valid"):
        rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
        paths = [Path(row["audio_filepath"]) for row in rows]
        lines = [f"{path.name}\t{audio_info(path).frames}\n" for path in paths]
        (folder / f"{split}.tsv").write_text(f"{paths[0].parent}\n" + "".join(lines))
        letters = [" ".join(row["text"].replace(" ", "|")) + " |\n" for row in rows]
        (folder / f"{split}.ltr").write_text("".join(letters))
        (folder / f"{split}.jsonl").unlink()
    overrides = shlex.split(
        "model.configuration=5x5 +model.width=0.1 common.cpu=true dataset.num_workers=2 dataset.max_tokens=1500 "
        "optimization.max_update=2 common.tensorboard_logdir=curves task.max_duration=2"
    )
    words = ["fairseq-hydra-train", "--config-dir", checkout / "configs", "--config-name", "quartznet_15x5"]
    places = [f"task.data={folder}", f"checkpoint.save_dir={folder / 'run'}", f"hydra.run.dir={folder / 'hydra'}"]
    environment = {"SPEECHDLM_USER_DIR": str(checkout / "speechdlm_ext")}
    run_command([*words, *places, *overrides, "+task.speeds='0.9,1.0,1.1'"], env=environment)
    model = CTCModel.from_pretrained(folder / "run")
    assert len(model.network.encoder.encoder) == 8 and model.tokenizer.symbols[-1] == "|"
    (written,) = {path.parent for path in (folder / "hydra").rglob("curves/valid/events.*")}
    assert SENTENCES["LJ001-0002"] in texts_of(written, "examples")[-1][1]
