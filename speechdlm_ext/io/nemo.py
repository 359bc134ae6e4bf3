"""NeMo's ``.nemo`` files: a tar of a configuration, weights and tokenizer files, read without running what is in it."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from speechdlm_ext.compat.checkpoints import load_checkpoint, what_it_is
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.atomic import atomic_write

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
PREFIX = "nemo:"  # of the names of files in the configuration
_LARGEST = {CONFIG: 1 << 24, WEIGHTS: 1 << 36}  # bytes
_LARGEST_FILE, _MOST_FILES = 1 << 28, 1000
_LARGEST_RATIO, _SLACK = 20, 1 << 26  # what a compressed file may unpack to, in multiples of its size and bytes more


class NemoFile(NamedTuple):
    """What a ``.nemo`` file holds.

    Attributes:
        path: the file.
        config: the model's configuration, plain values.
        weights: the state dict, on the CPU.
        files: the other members, tokenizers mostly, by their names in the tar.
    """

    path: Path
    config: dict[str, Any]
    weights: dict[str, Tensor]
    files: dict[str, bytes]

    @property
    def kind(self) -> str:
        """Name of the NeMo class that wrote it, ``EncDecCTCModel`` or so; empty where it does not say."""
        return str(self.config.get("target") or "").rpartition(".")[2]

    @property
    def old_front_end(self) -> bool:
        """Whether features are those of NeMo before 2.5.0 (see ``LogMelFeatures``); so where it names no version."""
        version = re.match(r"(\d+)\.(\d+)", str(self.config.get("nemo_version") or ""))
        return version is None or (int(version[1]), int(version[2])) < (2, 5)

    def file(self, reference: Any) -> bytes:
        """The member that an entry of the configuration names, ``nemo:<name>``.

        Raises:
            InputError: it names none, or there is no such member.
        """
        name = str(reference or "").removeprefix(PREFIX)
        if name not in self.files:
            raise InputError(
                f"{self.path}: the configuration names the file {reference!r}, which is not in it; there are "
                f"{', '.join(sorted(self.files)) or 'none'}"
            )
        return self.files[name]

    def expect(self, *kinds: str) -> None:
        """Raise :class:`InputError` unless one of these NeMo classes wrote the file."""
        if self.kind not in kinds:
            raise InputError(f"{self.path}: a model {self.kind or 'of no name'}; expected {' or '.join(kinds)}")


def read_nemo(path: str | os.PathLike[str]) -> NemoFile:
    """Read a ``.nemo`` file, plain or compressed with gzip; nothing is unpacked to disk, no code in it runs.

    Raises:
        InputError: there is no such file; it is cut off, no tar, or larger than a model; a member lies outside the
            archive, is a link or comes twice; the configuration is not YAML; the weights would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    members = _read_members(path)
    for name in (CONFIG, WEIGHTS):
        if name not in members:
            raise InputError(f"{path}: no {name} in it; not a .nemo file")
    try:
        config = yaml.safe_load(members.pop(CONFIG))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {CONFIG} is not YAML of plain values ({one_line(error)})") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: {CONFIG} holds {type(config).__name__}, expected a mapping")
    source = io.BytesIO(members.pop(WEIGHTS))
    source.name = f"{path}: {WEIGHTS}"  # which messages give
    weights = load_checkpoint(source, trust=False)
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path}: {WEIGHTS} is not a state dict, tensors by name")
    return NemoFile(path, config, {str(name): value for name, value in weights.items()}, members)


def write_nemo(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write a ``.nemo`` file, whole or not at all.

    Args:
        config: plain values, with ``target`` and ``nemo_version``; it names its files as ``nemo:<name>``.
        weights: the state dict.
        files: other members, by name; see :func:`member_name`.
    """
    saved = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, saved)
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).encode()
    with atomic_write(path, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in {CONFIG: text, **(files or {}), WEIGHTS: saved.getvalue()}.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def member_name(name: str, data: bytes) -> str:
    """The name of a file in a ``.nemo`` file as NeMo forms them: 32 hexadecimal digits, then its own."""
    return f"{hashlib.sha256(data).hexdigest()[:32]}_{name}"


def _read_members(path: Path) -> dict[str, bytes]:
    """The files of the tar by name, without ``./``."""
    size = path.stat().st_size
    left = size * _LARGEST_RATIO + _SLACK
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if member.isdir() and name in ("", "."):
                    continue
                parts = name.split("/")
                if name.startswith("/") or "\\" in name or ".." in parts:
                    raise InputError(f"{path}: refused, the member {member.name!r} lies outside the archive")
                if member.isdir():
                    continue
                if not member.isreg():
                    raise InputError(f"{path}: refused, the member {member.name!r} is a link or a device, not a file")
                if name in members or len(members) >= _MOST_FILES:
                    raise InputError(f"{path}: refused, {name!r} comes twice, or there are too many members")
                left -= member.size
                if left < 0 or member.size > _LARGEST.get(name, _LARGEST_FILE):
                    raise InputError(f"{path}: refused, the member {name!r} has {member.size} bytes, too many for it")
                data = tar.extractfile(member)
                assert data is not None
                members[name] = data.read()
                if len(members[name]) != member.size:
                    raise InputError(f"{path}: cut off in {name!r}; copy or download it again")
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        with open(path, "rb") as file:
            other = what_it_is(file.read(1024))
        reason = other or f"not a tar file, or cut off ({one_line(error)}); copy or download it again"
        raise InputError(f"{path}: {reason}") from None
    return members
