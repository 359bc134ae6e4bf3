"""Checkpoints of all ages are read, and none runs code."""

from __future__ import annotations

import argparse
import collections
import functools
import operator
import pickle
import typing
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from omegaconf import OmegaConf

from speechdlm_ext.compat.checkpoints import load_checkpoint, trust_checkpoints
from speechdlm_ext.errors import InputError
from tests.helpers.hostile import Call, payloads, raw_pickles, write_raw

KINDS = [
    "eval",
    "exec",
    "fairseq's own eval",
    "inside an allowed object",
    "inside an omegaconf node",
    "numpy.load of a pickle",
    "os.system",
    "subprocess",
]
RAW_KINDS = sorted(raw_pickles(Path("unused")))
PLACES = ["cfg", "extra_state", "last_optimizer_state"]


def everything() -> dict[str, Any]:
    """What fairseq has put into checkpoints since 2018, beside tensors."""
    import fairseq  # noqa: F401
    from fairseq.data import Dictionary
    from fairseq.logging.meters import AverageMeter, StopwatchMeter, TimeMeter

    dictionary = Dictionary()
    dictionary.add_symbol("7")
    meter = AverageMeter()
    meter.update(3.0)
    return {
        "args": argparse.Namespace(arch="speech_dlm", max_update=250000.0, lr=[0.1]),
        "cfg": OmegaConf.create({"a": 1, "b": [1, {"c": None}], "d": {"e": "x", "f": 1.5, "g": True}}),
        "type": typing.Optional[int],  # noqa: UP007, UP045
        "none_type": type(None),
        "meters": [meter, TimeMeter(), StopwatchMeter()],
        "dictionary": dictionary,
        "float64": numpy.float64(3.5),
        "int64": numpy.int64(-3),
        "big endian": numpy.dtype(">f4").type(2),
        "array": numpy.arange(6.0).reshape(2, 3).T,
        "text": numpy.str_("x"),
        "plain": ({1, 2}, frozenset([1]), b"abc", 1 + 2j),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "weight": torch.nn.Parameter(torch.ones(2)),
    }


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "before 2020"])
def test_everything_that_fairseq_saves_is_read(tmp_path: Path, new_format: bool) -> None:
    saved = everything()
    path = tmp_path / "checkpoint.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=new_format)
    loaded = load_checkpoint(path)
    assert loaded.keys() == saved.keys()
    for name in ("args", "cfg", "type", "none_type", "float64", "int64", "big endian", "text", "plain"):
        assert loaded[name] == saved[name] and type(loaded[name]) is type(saved[name]), name
    assert numpy.array_equal(loaded["array"], saved["array"]) and loaded["array"].dtype == saved["array"].dtype
    assert loaded["dictionary"].index("7") == saved["dictionary"].index("7")
    assert loaded["meters"][0].avg == 3.0
    assert loaded["weight"].requires_grad and torch.equal(loaded["weight"], saved["weight"])
    torch.save(loaded, path)
    assert numpy.array_equal(load_checkpoint(path)["array"], saved["array"])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_objects_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, place: str) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": {}, place: {"nested": [payloads(marker)[kind]]}}, path)
    with pytest.raises(InputError) as refused:
        load_checkpoint(path)
    said = str(refused.value)
    assert not marker.exists()
    assert "\n" not in said and str(path) in said and "SPEECHDLM_TRUST_CHECKPOINTS=1" in said
    # The payload is a real one: with the switch it runs.
    monkeypatch.setenv("SPEECHDLM_TRUST_CHECKPOINTS", "1")
    load_checkpoint(path)
    assert marker.exists()


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_hostile_pickles_are_refused(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "checkpoint.pt"
    write_raw(path, raw_pickles(marker)[kind])
    with pytest.raises(InputError) as refused:
        load_checkpoint(path)
    assert not marker.exists() and str(path) in str(refused.value)
    load_checkpoint(path, trust=True)
    assert marker.exists()


def test_a_refusal_names_the_class(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(payloads(tmp_path / "marker")["subprocess"], path)
    with pytest.raises(InputError, match=r"checkpoint\.pt: refused.* subprocess\.call, which can run code"):
        load_checkpoint(path)


def test_the_environment_is_the_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(payloads(tmp_path / "marker")["os.system"], path)
    for value in ("", "0", "false", "no"):
        monkeypatch.setenv("SPEECHDLM_TRUST_CHECKPOINTS", value)
        with pytest.raises(InputError):
            load_checkpoint(path)
    monkeypatch.setenv("SPEECHDLM_TRUST_CHECKPOINTS", "1")
    with pytest.raises(InputError):
        load_checkpoint(path, trust=False)
    load_checkpoint(path)
    assert (tmp_path / "marker").exists()


def test_trust_can_be_said_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairseq.checkpoint_utils import load_checkpoint_to_cpu

    marker, path = tmp_path / "marker", tmp_path / "checkpoint.pt"
    state = {"cfg": None, "model": {}, "optimizer_history": [{}], "extra_state": {"train_iterator": {}}}
    state["optimizer_history"][0].update(optimizer_name="x", lr_scheduler_state={}, num_updates=0)  # type: ignore[index]
    torch.save({**state, "hidden": payloads(marker)["os.system"]}, path)
    with trust_checkpoints(False):
        monkeypatch.setenv("SPEECHDLM_TRUST_CHECKPOINTS", "1")
        with pytest.raises(InputError):
            load_checkpoint_to_cpu(str(path))
    monkeypatch.delenv("SPEECHDLM_TRUST_CHECKPOINTS")
    assert not marker.exists()
    with trust_checkpoints():
        load_checkpoint_to_cpu(str(path))
    assert marker.exists()
    with pytest.raises(InputError):
        load_checkpoint_to_cpu(str(path))


NOT_NEEDED = {
    "a type's name": Call(operator.getitem, typing.List, "a_name"),  # noqa: UP006
    "numpy's object type": numpy.dtype("O"),
    "numpy's structured type": numpy.dtype([("a", "f8")]),
    "an array of objects": numpy.array([{}], dtype=object),
    "a defaultdict of anything": collections.defaultdict(print),
    "a partial": functools.partial(print),
    "an attrgetter": operator.attrgetter("a"),
    "a module": torch.nn.Linear(1, 1),
}


@pytest.mark.parametrize("name", NOT_NEEDED)
def test_what_no_checkpoint_needs_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"cfg": NOT_NEEDED[name]}, path)
    with pytest.raises(InputError, match=r"checkpoint\.pt"):
        load_checkpoint(path)


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "before 2020"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_half_a_file_is_no_checkpoint(tmp_path: Path, new_format: bool, share: float) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": torch.ones(1000)}, path, _use_new_zipfile_serialization=new_format)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError) as refused:
        load_checkpoint(path)
    assert str(path) in str(refused.value) and "TRUST" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "nothing.pt")


def load_as(module: str, call: str, path: Path) -> Any:
    """The value of the expression ``call``, run by code of that module."""
    scope = {"__name__": module, "torch": torch, "pickle": pickle, "path": str(path)}
    return eval(call, scope)


CALLS = [
    "torch.load(path)",
    "torch.load(f=path)",
    'torch.load(path, "cpu", pickle)',
    'torch.load(path, map_location="cpu", pickle_module=pickle)',
    "torch.load(path, weights_only=False)",
    'torch.load(f=open(path, "rb"), map_location=None, weights_only=False)',
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("module", ["fairseq.checkpoint_utils", "fairseq_cli.train"])
def test_no_way_to_call_it_makes_fairseq_trust_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, module: str
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "checkpoint.pt"
    torch.save(payloads(marker)["os.system"], path)
    with pytest.raises(InputError, match="refused"):
        load_as(module, call, path)
    assert not marker.exists()
    monkeypatch.setenv("SPEECHDLM_TRUST_CHECKPOINTS", "1")
    load_as(module, call, path)
    assert marker.exists()
    torch.save({"args": argparse.Namespace(a=1)}, path)
    monkeypatch.delenv("SPEECHDLM_TRUST_CHECKPOINTS")
    assert load_as(module, call, path)["args"].a == 1


@pytest.mark.parametrize("call", CALLS[:2])
def test_other_programs_read_fairseqs_checkpoints_and_run_no_code(tmp_path: Path, call: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "checkpoint.pt"
    torch.save({"args": argparse.Namespace(a=1), "cfg": OmegaConf.create({"b": 2})}, path)
    assert load_as("scripts.average_checkpoints", call, path)["cfg"].b == 2
    torch.save(payloads(marker)["os.system"], path)
    with pytest.raises(pickle.UnpicklingError):  # torch's own error: programs know it
        load_as("scripts.average_checkpoints", call, path)
    assert not marker.exists()


@pytest.mark.parametrize("call", CALLS[2:])
def test_other_programs_decide_for_themselves(tmp_path: Path, call: str) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(payloads(tmp_path / "marker")["os.system"], path)
    if "weights_only" in call:
        load_as("a_program", call, path)
        assert (tmp_path / "marker").exists()
    torch.save({"args": argparse.Namespace(a=1)}, path)
    with pytest.raises(pickle.UnpicklingError):
        load_as("a_program", "torch.load(path, weights_only=True)", path)


OTHER_FILES = {
    "a web page": (b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "web page"),
    "a web page without a doctype": (b"\xef\xbb\xbf\n<html lang='en'>", "web page"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "safetensors": (b"\x10\0\0\0\0\0\0\0" + b'{"__metadata__":{}}   ', "safetensors"),
    "GGUF": (b"GGUF\x03\0\0\0", "GGUF"),
    "text": (b"hello\n", "cannot be read as a checkpoint"),
    "JSON": (b'{"a": 1}', "cannot be read as a checkpoint"),
    "nothing": (b"", "not a whole checkpoint"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_what_is_no_checkpoint_is_named_and_never_to_be_trusted(tmp_path: Path, kind: str) -> None:
    data, said = OTHER_FILES[kind]
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(data)
    with pytest.raises(InputError) as refused:
        load_checkpoint(path)
    assert str(path) in str(refused.value) and said in str(refused.value)
    assert "trust" not in str(refused.value).lower() and "\n" not in str(refused.value)


def test_paths_of_every_python_are_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"path": Path("a/b")}, path)
    assert load_checkpoint(path)["path"] == Path("a/b")
    # As Python 3.13 writes it.
    write_raw(path, b"\x80\x02cpathlib._local\nPosixPath\nX\x01\x00\x00\x00aX\x01\x00\x00\x00b\x86R.")
    assert load_checkpoint(path) == Path("a/b")


def test_nothing_stays_on_torchs_own_list(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())  # a list made of a set: its order is not fixed
    torch.save(everything(), tmp_path / "checkpoint.pt")
    load_checkpoint(tmp_path / "checkpoint.pt")
    assert set(torch.serialization.get_safe_globals()) == before
