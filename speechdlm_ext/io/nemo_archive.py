"""NeMo's ``.nemo`` files: a tar (gzipped by older versions) of a YAML configuration, weights and artefacts."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from speechdlm_ext.compat.checkpoints import load_checkpoint
from speechdlm_ext.errors import InputError, one_line

_CONFIG, _WEIGHTS = "model_config.yaml", "model_weights.ckpt"


class NemoArchive:
    """A ``.nemo`` file. Nothing in it is run, no class named in it is made, and nothing is written where it says.

    Args:
        path: of the file.

    Attributes:
        path: the same.
        config: of the model, as plain values.

    Raises:
        InputError: there is no such file, or it is not a ``.nemo`` file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import yaml

        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such .nemo file")
        try:
            config = yaml.safe_load(self.artefact(_CONFIG))
        except yaml.YAMLError as error:
            raise InputError(f"{self.path}: its {_CONFIG} is no YAML: {one_line(error)[:200]}") from None
        if not isinstance(config, dict):
            raise InputError(f"{self.path}: its {_CONFIG} is no mapping")
        self.config: dict[str, Any] = config

    @property
    def target(self) -> str:
        """Name of the model's class, without its module."""
        return str(self.config.get("target", "")).rpartition(".")[2]

    def artefact(self, name: str) -> bytes:
        """Content of a member by its name; the configuration refers to it as ``nemo:NAME``.

        Raises:
            InputError: there is none of this name, or the file is damaged.
        """
        wanted = PurePosixPath(name.removeprefix("nemo:")).name
        try:
            with tarfile.open(self.path) as tar:
                for member in tar:
                    if PurePosixPath(member.name).name == wanted and member.isfile():
                        content = tar.extractfile(member)
                        assert content is not None
                        return content.read()
        except (tarfile.TarError, OSError, EOFError) as error:
            raise InputError(f"{self.path}: not a .nemo file, or damaged: {one_line(error)[:200]}") from None
        raise InputError(f"{self.path}: it has no {wanted}: not a .nemo file, or damaged")

    def weights(self, trust: bool | None = None) -> dict[str, Tensor]:
        """The state dict.

        Raises:
            InputError: it is missing, damaged, or would run code.
        """
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, _WEIGHTS)
            place.write_bytes(self.artefact(_WEIGHTS))
            try:
                state = load_checkpoint(place, trust=trust)
            except InputError as error:
                raise InputError(str(error).replace(str(place), f"{self.path}: {_WEIGHTS}")) from None
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise InputError(f"{self.path}: {_WEIGHTS} is no state dict")
        return state
