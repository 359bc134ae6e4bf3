"""Codebooks of others: k-means of scikit-learn, files of DP-SLM, hostile ones, and the encoders they get."""

from __future__ import annotations

import csv
import os
import pickle
import struct
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.cluster import KMeans, MiniBatchKMeans

from speechdlm_ext.commands.units import add_unit_options, load_pipeline
from speechdlm_ext.encoders import LogMelEncoder
from speechdlm_ext.errors import InputError
from speechdlm_ext.units import Codebook, DPDPQuantizer, load_codebook
from speechdlm_ext.units.published_pairs import PUBLISHED
from tests.helpers.commands import RunCommand

WIDTH = 40


@pytest.fixture(scope="module", params=[KMeans, MiniBatchKMeans])
def model(request: pytest.FixtureRequest) -> Any:
    features = np.random.default_rng(1).standard_normal((200, WIDTH)).astype(np.float32)
    return request.param(6, n_init=1, random_state=np.random.RandomState(2)).fit(features)


@pytest.mark.parametrize("packed", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_kmeans_of_joblib(model: Any, packed: Any, tmp_path: Path) -> None:
    path = tmp_path / "km.bin"
    joblib.dump(model, path, compress=packed)
    codebook = load_codebook(path)
    assert np.array_equal(codebook.centroids.numpy(), model.cluster_centers_)
    assert codebook.encoder == "" and codebook.num_units == 6 and codebook.dim == WIDTH


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_kmeans_of_pickle(model: Any, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "km.pkl"
    path.write_bytes(pickle.dumps(model, protocol))
    assert np.array_equal(load_codebook(path).centroids.numpy(), model.cluster_centers_)


def test_kmeans_in_double_precision_and_old_names(tmp_path: Path) -> None:
    model = KMeans(4, n_init=1).fit(np.random.default_rng(1).standard_normal((50, 3)))
    path = tmp_path / "km.bin"
    joblib.dump(np.asfortranarray(model.cluster_centers_), path)
    assert np.allclose(load_codebook(path).centroids.numpy(), model.cluster_centers_, atol=1e-7)
    # Before 0.22, scikit-learn had the class elsewhere.
    joblib.dump(model, path, protocol=3)
    raw = path.read_bytes()
    assert b"csklearn.cluster._kmeans\n" in raw
    path.write_bytes(raw.replace(b"csklearn.cluster._kmeans\n", b"csklearn.cluster.k_means_\n"))
    assert np.allclose(load_codebook(path).centroids.numpy(), model.cluster_centers_, atol=1e-7)


def test_files_of_dp_slm(tmp_path: Path) -> None:
    centroids = torch.randn(7, 5)
    for number, saved in enumerate(({"codebook": centroids}, {"codebook": torch.nn.Parameter(centroids)}, centroids)):
        for zipped in (True, False):
            path = tmp_path / f"{number}{zipped}.pt"
            torch.save(saved, path, _use_new_zipfile_serialization=zipped)
            assert torch.equal(load_codebook(path).centroids, centroids)
    torch.save({"weights": centroids}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="no tensor named codebook.*weights"):
        load_codebook(tmp_path / "other.pt")
    torch.save({"codebook": centroids[0]}, tmp_path / "flat.pt")
    with pytest.raises(InputError, match=r"\(5,\)"):
        load_codebook(tmp_path / "flat.pt")


def test_attributes_of_a_kmeans_and_tables_of_numpy(tmp_path: Path) -> None:
    """The forms in which bshall/hubert's loaders and seamless_communication have theirs."""
    centroids = torch.randn(8, 40)
    for value in (centroids, centroids.numpy(), centroids.double().numpy()):
        saved = {"n_features_in_": 40, "_n_threads": 4, "cluster_centers_": value}
        torch.save(saved, tmp_path / "km.pt")
        assert torch.equal(load_codebook(tmp_path / "km.pt").centroids, centroids)
    for table in (centroids.numpy(), centroids.double().numpy(), np.asfortranarray(centroids.numpy())):
        np.save(tmp_path / "km.npy", table)
        assert torch.equal(load_codebook(tmp_path / "km.npy").centroids, centroids)
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    for name in ("objects.npy", "words.npy"):
        with pytest.raises(InputError, match=f"{name}: not a table"):
            load_codebook(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>404</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "is a pointer of Git LFS"),
        (b"centroids: none", "is text"),
        (b"RIFF\x24\x08\x00\x00WAVEfmt ", "begins with 52 49 46 46"),
    ],
)
def test_what_is_no_codebook_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "km.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"km.bin.*{message}.*scikit-learn pickled is expected") as caught:
        load_codebook(path)
    assert "TRUST" not in str(caught.value)


@pytest.mark.parametrize("length", [0x78, 0x80, 0x1F8B, 0x5D, 0x425A])
def test_safetensors_that_begin_like_something_else(length: int, tmp_path: Path) -> None:
    """The first bytes of such a file are the length of its header, whatever that is."""
    path = tmp_path / "a.safetensors"
    Codebook(torch.ones(2, 3)).save(path)
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    for padded in range(length, 1 << 20, 0x100 if length < 0x100 else 0x10000):
        if padded >= size:
            break
    path.write_bytes(struct.pack("<Q", padded) + raw[8 : 8 + size] + b" " * (padded - size) + raw[8 + size :])
    assert torch.equal(load_codebook(path).centroids, torch.ones(2, 3))


class _Runs:
    """Runs a command when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


class _Imports:
    def __reduce__(self) -> Any:
        return __import__, ("antigravity",)


def hostile(kind: str, marker: Path, path: Path) -> None:
    model = KMeans(2, n_init=1).fit(np.random.default_rng(1).standard_normal((9, 3)))
    if kind == "alone":
        path.write_bytes(pickle.dumps(_Runs(marker)))
    elif kind == "joblib":
        joblib.dump(_Runs(marker), path, compress=3)
    elif kind == "in a model":
        model.verbose = _Runs(marker)
        joblib.dump(model, path)
    elif kind == "array of objects":
        model.cluster_centers_ = np.array([[_Runs(marker)]], dtype=object)
        joblib.dump(model, path)
    elif kind == "pickled array of objects":
        model.cluster_centers_ = np.array([[_Runs(marker)]], dtype=object)
        path.write_bytes(pickle.dumps(model, 4))
    elif kind == "torch":
        torch.save({"codebook": _Runs(marker)}, path)
    elif kind == "old torch":
        torch.save({"codebook": _Runs(marker)}, path, _use_new_zipfile_serialization=False)
    elif kind == "torch beside":
        torch.save({"codebook": torch.zeros(2, 3), "more": _Runs(marker)}, path)
    elif kind == "import":
        path.write_bytes(pickle.dumps(_Imports()))
    elif kind == "state of a class":  # BUILD on the class itself would change it for all files after this one
        path.write_bytes(b"\x80\x02csklearn.cluster._kmeans\nKMeans\n}X\x04\x00\x00\x00heldK\x01sb.")
    elif kind == "dotted":
        path.write_bytes(b"\x80\x04\x8c\x16sklearn.cluster._kmeans\x8c\x19KMeans.__init__.__globals__\x93.")
    elif kind == "by number":
        path.write_bytes(b"\x80\x02\x82\x01.")
    elif kind == "from outside":
        path.write_bytes(b"\x80\x02Ptensor\n.")


HOSTILE = [
    *("alone", "joblib", "in a model", "array of objects", "pickled array of objects", "torch", "old torch"),
    *("torch beside", "import", "state of a class", "dotted", "by number", "from outside"),
]


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_do_not_run(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHDLM_TRUST_CHECKPOINTS", "1")  # which is not meant for codebooks
    path, marker = tmp_path / "codebook.bin", tmp_path / "marker"
    hostile(kind, marker, path)
    with pytest.raises(InputError) as caught:
        load_codebook(path)
    assert not marker.exists()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.commands
def test_the_hostile_files_are_hostile(tmp_path: Path) -> None:
    path, marker = tmp_path / "codebook.bin", tmp_path / "marker"
    for kind in ("in a model", "array of objects"):
        hostile(kind, marker, path)
        joblib.load(path)
        assert marker.exists()
        marker.unlink()


@pytest.mark.commands
@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_damaged_files_end_in_one_line(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    whole = folder / "whole.bin"
    if not whole.exists():
        joblib.dump(KMeans(3, n_init=1, random_state=1).fit(np.eye(6, dtype=np.float32)), whole)
    raw = bytearray(whole.read_bytes())
    end = data.draw(st.integers(0, len(raw)))
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged.bin"
    path.write_bytes(raw[:end])
    try:
        codebook = load_codebook(path)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert codebook.centroids.shape == (3, 6) or codebook.centroids.numel() == 18


def test_foreign_codebooks_get_an_encoder(tmp_path: Path) -> None:
    encoder = LogMelEncoder(n_mels=WIDTH, window=640)
    foreign = Codebook(torch.randn(5, WIDTH), extra={"level": -20.0})
    with pytest.raises(InputError, match="which encoder"):
        foreign.build_encoder()
    ours = foreign.for_encoder(encoder)
    assert (ours.encoder, ours.options, ours.frame_rate) == ("logmel", encoder.options, 50.0)
    assert ours.extra == foreign.extra and foreign.encoder == ""
    same = Codebook(foreign.centroids, "logmel", encoder.options, 50.0, identity=encoder.identity)
    assert ours.fingerprint == same.fingerprint != foreign.fingerprint
    assert ours.for_encoder(encoder) is ours
    with pytest.raises(InputError, match="width 40.*width 30"):
        foreign.for_encoder(LogMelEncoder(n_mels=30))
    with pytest.raises(InputError, match="window 640.*400"):
        ours.for_encoder(LogMelEncoder(n_mels=WIDTH))
    foreign.save(tmp_path / "a.safetensors")
    again = load_codebook(tmp_path / "a.safetensors")
    assert again.encoder == "" and again.fingerprint == foreign.fingerprint


def test_codebooks_name_the_resampler_and_those_of_before_are_still_read(tmp_path: Path) -> None:
    """Another one gives other features; codebooks that do not say are used as they are."""
    encoder = LogMelEncoder()
    ours = Codebook(torch.randn(5, WIDTH)).for_encoder(encoder)
    assert ours.identity["resampler"] == "soxr-hq"
    other = Codebook(ours.centroids, "logmel", encoder.options, 50.0, identity={**encoder.identity, "resampler": "x"})
    with pytest.raises(InputError, match="resampler 'x'.*'soxr-hq'"):
        other.build_encoder()
    before = Codebook(ours.centroids, "hubert", {"batch_seconds": None, **encoder.options}, 50.0)
    before.encoder = "logmel"  # options of before, which name batch_seconds
    assert before.build_encoder().options == encoder.options
    assert ours.fingerprint != Codebook(ours.centroids, "logmel", encoder.options, 50.0).fingerprint


class _Weighted(LogMelEncoder):
    """An encoder with weights somewhere, told apart by their digest."""

    def __init__(self, checkpoint: str, digest: str) -> None:
        super().__init__(WIDTH)
        self.checkpoint, self.digest = checkpoint, digest

    @property
    def options(self) -> dict[str, Any]:
        return {"checkpoint": self.checkpoint}

    @property
    def identity(self) -> dict[str, Any]:
        return {"weights": self.digest}


def test_fingerprints_are_of_weights_and_not_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    centroids = torch.randn(5, WIDTH)
    here, there, other = (
        Codebook(centroids).for_encoder(_Weighted(*of)) for of in (("/a", "12ab"), ("/b", "12ab"), ("/a", "34cd"))
    )
    assert here.fingerprint == there.fingerprint != other.fingerprint
    here.save(tmp_path / "a.safetensors")
    again = load_codebook(tmp_path / "a.safetensors")
    assert again.fingerprint == here.fingerprint and again.options == {"checkpoint": "/a"}
    digests = {"/a": "12ab", "/moved": "12ab", "/wrong": "34cd"}
    monkeypatch.setattr(
        "speechdlm_ext.units.codebook.build_encoder",
        lambda name, options: _Weighted(options["checkpoint"], digests[options["checkpoint"]]),
    )
    assert again.build_encoder().options == {"checkpoint": "/a"}
    assert again.build_encoder({"checkpoint": "/moved"}).options == {"checkpoint": "/moved"}
    with pytest.raises(InputError, match="weights '12ab'.*'34cd'"):
        again.build_encoder({"checkpoint": "/wrong"})


def test_the_24_published_pairs(data: Path) -> None:
    with open(data / "keys" / "dpslm_bitrate_wer_fig4.csv", encoding="utf-8") as file:
        rows = [(int(row["K"]), int(row["lambda"]), int(row["bitrate_bps_readme"])) for row in csv.DictReader(file)]
    assert len(rows) == 24
    assert [(pair.units, pair.duration_penalty, pair.bitrate) for pair in PUBLISHED.values()] == rows
    assert list(PUBLISHED) == [f"k{units}-l{penalty}" for units, penalty, _ in rows]


def test_pairs_by_name(tmp_path: Path) -> None:
    quantizer = DPDPQuantizer.published("k500-l4500", torch.randn(500, 8))
    assert (quantizer.duration_penalty, quantizer.num_neighbors) == (4500.0, 25)
    with pytest.raises(InputError, match="500 units, this one has 400"):
        DPDPQuantizer.published("k500-l4500", Codebook(torch.randn(400, 8)))
    with pytest.raises(InputError, match="k500-l4501.*k500-l4500"):
        DPDPQuantizer.published("k500-l4501", torch.randn(500, 8))
    torch.save({"codebook": torch.randn(100, WIDTH)}, tmp_path / "codebook.pt")
    parser = ArgumentParser()
    add_unit_options(parser)
    options = ["--codebook", str(tmp_path / "codebook.pt"), "--encoder", "logmel", "--duration-penalty", "k100-l600"]
    chosen = load_pipeline(parser.parse_args(options)).quantizer
    assert chosen is not None and (chosen.duration_penalty, chosen.num_neighbors) == (600.0, 5)


def test_convert_command(tmp_path: Path, checkout: Path, run_loaded: RunCommand) -> None:
    model = KMeans(6, n_init=1).fit(np.random.default_rng(1).standard_normal((200, WIDTH)))
    command = ["python", checkout / "data_prep" / "convert_codebook.py"]
    path, converted = tmp_path / "km.bin", tmp_path / "codebook.safetensors"
    joblib.dump(model, path)
    done = run_loaded([*command, path, converted, "--encoder", "logmel"])
    codebook = load_codebook(converted)
    assert codebook.fingerprint in done.stdout
    assert codebook.build_encoder().dim == WIDTH
    assert np.array_equal(codebook.centroids.numpy(), model.cluster_centers_.astype(np.float32))
    before = converted.read_bytes()
    hostile("in a model", tmp_path / "marker", path)
    done = run_loaded([*command, path, converted, "--encoder", "logmel", "--overwrite"], check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "posix.system" in done.stderr
    assert converted.read_bytes() == before and not (tmp_path / "marker").exists()


def test_safetensors_of_others(tmp_path: Path) -> None:
    save_file({"codebook": torch.zeros(3, 4)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="facts"):
        load_codebook(tmp_path / "a.safetensors")
