"""Files that recognition commands must refuse: one line, status 2, and nothing written."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from speechdlm_ext.asr.text_tokenizer import train_tokenizer
from speechdlm_ext.hub import CTCModel
from tests.helpers.hostile import payloads
from tests.helpers.nemo_files import changed

pytestmark = pytest.mark.commands


@pytest.fixture
def nemo(data: Path) -> Path:
    return data / "reference/nemo/ctc_char.nemo"


def packed(path: Path, source: Path, change: dict[str, bytes]) -> Path:
    """A copy of a .nemo file with members added, or replaced where the name is one of its own."""
    with tarfile.open(source) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar if info.isfile()}  # type: ignore[union-attr]
    names = {name.removeprefix("./"): name for name in members}
    with tarfile.open(path, "w") as tar:
        for name, content in {**members, **{names.get(name, name): value for name, value in change.items()}}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def model(kind: str, nemo: Path, folder: Path, shared: Path) -> Path:
    """A file that is no recogniser, or must not be read."""
    path = folder / "models" / "a.nemo"
    path.parent.mkdir()
    if kind == "hostile":
        weights = io.BytesIO()
        torch.save({"a": payloads(folder / "marker")["os.system"]}, weights)
        return packed(path, nemo, {"model_weights.ckpt": weights.getvalue()})
    if kind == "outside":
        return packed(path, nemo, {"../evil": b"x"})
    if kind == "truncated":
        path.write_bytes(nemo.read_bytes()[: nemo.stat().st_size // 2])
        return path
    if kind == "class":
        return changed(nemo, path, lambda file: file.config.update(target="nemo.x.EncDecRNNTBPEModel"))
    if kind == "nan":
        return changed(nemo, path, lambda file: file.weights["decoder.decoder_layers.0.bias"].fill_(torch.nan))
    other, _ = train_tokenizer(["seven two nine", "one two three four", "zero five six eight"], "bpe", 40)
    source = shared / "reference/nemo/asr/ctc_bpe.nemo"
    return changed(
        source, path,
        lambda file: file.files.update({file.config["tokenizer"]["model_path"].removeprefix("nemo:"): other.model}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("hostile", "a.nemo: model_weights.ckpt"),
        ("outside", "outside the archive"),
        ("truncated", "cut off"),
        ("class", "a model EncDecRNNTBPEModel"),
        ("nan", "not numbers"),
        ("tokenizer", "the tokenizer has 40 symbols, the model 64 others"),
    ],
)
def test_models(
    kind: str, message: str, nemo: Path, data: Path, shared: Path, checkout: Path, tmp_path: Path, run_loaded: Any
) -> None:
    file, manifest = model(kind, nemo, tmp_path, shared), tmp_path / "m.jsonl"
    audio = data / "speech/ljspeech/LJ001-0002.flac"
    manifest.write_text(json.dumps({"audio_filepath": str(audio), "duration": 1.8995625}) + "\n")
    before = sorted(tmp_path.rglob("*"))
    for words in (
        ["convert_nemo.py", file, tmp_path / "out.pt"],
        ["transcribe.py", manifest, tmp_path / "out.jsonl", "--asr", f"ctc:{file}", "--device", "cpu"],
    ):
        done = run_loaded(["python", checkout / "scripts" / words[0], *words[1:]], check=False)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert message in done.stderr.splitlines()[-1]
        assert sorted(tmp_path.rglob("*")) == before


def test_recordings(nemo: Path, data: Path, checkout: Path, tmp_path: Path, run_loaded: Any) -> None:
    """Over a corpus each that cannot be read is named and counted, and the others are done."""
    good = data / "speech/ljspeech/LJ001-0002.flac"
    wave, rate = soundfile.read(good, dtype="float32")
    wave[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", wave, rate, subtype="FLOAT")
    (tmp_path / "broken.wav").write_bytes(b"RIFF of nothing" * 100)
    (tmp_path / "empty.wav").write_bytes(b"")
    reasons = {
        "nan.wav": "has a sample that is not a number", "broken.wav": "is not audio that can be read",
        "empty.wav": "is empty", "none.wav": "no such file",
    }  # fmt: skip
    rows = [{"audio_filepath": str(path), "duration": 1.8995625} for path in (good, *map(tmp_path.joinpath, reasons))]
    manifest, output = tmp_path / "m.jsonl", tmp_path / "out.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [manifest, output, "--asr", f"ctc:{nemo}", "--device", "cpu"]
    done = run_loaded(["python", checkout / "scripts/transcribe.py", *words])
    assert "4 could not be read" in done.stdout + done.stderr and "Traceback" not in done.stderr
    (row, *others) = [json.loads(line) for line in output.read_text().splitlines()]
    assert row["text"] == CTCModel.from_pretrained(nemo).transcribe(good)[0]
    assert all("text" not in other for other in others), others
    errors = (tmp_path / "out.jsonl.errors").read_text().splitlines()
    assert len(errors) == 4
    assert all(any(name in line and why in line for line in errors) for name, why in reasons.items())
