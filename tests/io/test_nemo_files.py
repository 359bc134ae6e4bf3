"""``.nemo`` files: what is in them, and that hostile or damaged ones are refused before anything runs."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
import torch
import yaml

from speechdlm_ext.errors import InputError
from speechdlm_ext.io.nemo import CONFIG, WEIGHTS, read_nemo, write_nemo
from tests.helpers.hostile import payloads


@pytest.fixture
def nemo(data: Path) -> Path:
    return data / "reference/nemo/ctc_char.nemo"


def archive(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, member in members.items():
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(member, tarfile.TarInfo) else member
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def weights(state: object) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


GOOD = {CONFIG: b"target: a.b.EncDecCTCModel\nnemo_version: 2.4.0\n", WEIGHTS: weights({"w": torch.ones(2)})}


def test_a_file_of_nemo_compressed_or_not(nemo: Path, tmp_path: Path) -> None:
    found = read_nemo(nemo)
    assert found.kind == "EncDecCTCModel" and not found.old_front_end and not found.files
    assert found.config["decoder"]["num_classes"] == 28
    assert found.weights["decoder.decoder_layers.0.weight"].shape == (29, 64, 1)
    plain = tmp_path / "plain.nemo"
    plain.write_bytes(gzip.decompress(nemo.read_bytes()))
    again = read_nemo(plain)
    assert again.config == found.config
    assert all(torch.equal(again.weights[name], found.weights[name]) for name in found.weights)


def test_tokenizer_files(data: Path) -> None:
    found = read_nemo(data / "reference/nemo/ctc_bpe.nemo")
    assert len(found.files) == 3
    assert b"\xe2\x96\x81seven" in found.file(found.config["tokenizer"]["model_path"])
    with pytest.raises(InputError, match="names the file 'nemo:x'"):
        found.file("nemo:x")


def test_write_and_read(tmp_path: Path) -> None:
    config = {"target": "x.EncDecCTCModel", "nemo_version": "2.5.1", "labels": ["a", "é"]}
    write_nemo(tmp_path / "a.nemo", config, {"w": torch.arange(3)}, {"t.model": b"\0\1"})
    found = read_nemo(tmp_path / "a.nemo")
    assert found.config == config and found.file("nemo:t.model") == b"\0\1" and found.weights["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("version", "old"), [("2.5.0rc0", False), ("2.4.1", True), ("1.23.0", True), ("10.0", False), ("", True)]
)
def test_the_version_says_which_front_end(tmp_path: Path, version: str, old: bool) -> None:
    path = archive(tmp_path / "a.nemo", {**GOOD, CONFIG: f"nemo_version: '{version}'".encode()})
    assert read_nemo(path).old_front_end is old


@pytest.mark.parametrize("kind", ["os.system", "eval", "inside an allowed object", "numpy.load of a pickle"])
def test_weights_that_run_code_are_refused(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "marker"
    path = archive(tmp_path / "a.nemo", {**GOOD, WEIGHTS: weights(payloads(marker)[kind])})
    with pytest.raises(InputError, match=r"a\.nemo: model_weights\.ckpt"):
        read_nemo(path)
    assert not marker.exists()


def link(target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("tokenizer.model")
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../evil": b"x"}, "outside the archive"),
        ({"/etc/evil": b"x"}, "outside the archive"),
        ({"a/../../evil": b"x"}, "outside the archive"),
        ({"tokenizer.model": link("/etc/passwd")}, "a link or a device"),
        ({"./" + CONFIG: b"x: 1"}, "comes twice"),
        ({CONFIG: b"x: !!python/object/apply:os.system ['true']"}, "not YAML of plain values"),
        ({CONFIG: b"[" * 10_000}, "not YAML of plain values"),
        ({CONFIG: b"- 1"}, "holds list, expected a mapping"),
        ({CONFIG: b"\xff\xfe\x00"}, "not YAML of plain values"),
        ({WEIGHTS: weights([1, 2])}, "not a state dict"),
        ({WEIGHTS: GOOD[WEIGHTS][:100]}, "not a whole checkpoint|cannot be read"),
    ],
)
def test_hostile_members_are_refused(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    path = archive(tmp_path / "a.nemo", {**GOOD, **members})
    with pytest.raises(InputError, match=message) as caught:
        read_nemo(path)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == [path]


def test_damaged_files_are_refused(nemo: Path, tmp_path: Path) -> None:
    whole, path = nemo.read_bytes(), tmp_path / "a.nemo"
    for content in (b"", b"hello", whole[:1000], whole[: len(whole) // 2], gzip.decompress(whole)[:50_000]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="tar file|cut off|no model_"):
            read_nemo(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match="git lfs pull"):
        read_nemo(path)
    with pytest.raises(InputError, match="no such file"):
        read_nemo(tmp_path / "none.nemo")
    with pytest.raises(InputError, match="no model_weights.ckpt"):
        read_nemo(archive(path, {CONFIG: yaml.safe_dump({}).encode()}))


@pytest.mark.commands
def test_a_file_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nemo"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo(WEIGHTS)
        info.size = 200 << 20
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(InputError, match="too many for it"):
        read_nemo(path)


def test_another_class_is_named(nemo: Path) -> None:
    with pytest.raises(InputError, match="a model EncDecCTCModel; expected AudioCodecModel"):
        read_nemo(nemo).expect("AudioCodecModel")
