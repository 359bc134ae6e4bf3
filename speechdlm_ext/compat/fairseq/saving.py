"""Checkpoints that are whole or not there: a run killed at any moment goes on where it was."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

from speechdlm_ext.compat.imports import after_import
from speechdlm_ext.compat.refusal import refusal
from speechdlm_ext.compat.repair import Repair, always

logger = logging.getLogger(__name__)


def copy_atomically(source: str, target: str) -> str:
    """``shutil.copyfile`` by way of a temporary file beside the target; returns the target."""
    temporary = f"{target}.tmp"
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def _copy_whole_files(module: ModuleType) -> None:
    manager = module.PathManager
    original = manager.copy

    @functools.wraps(original)
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> Any:
        if manager.path_requires_pathmanager(src_path) or manager.path_requires_pathmanager(dst_path):
            return original(src_path, dst_path, overwrite=overwrite)
        return copy_atomically(src_path, dst_path)

    manager.copy = staticmethod(copy)


def _write_once(module: ModuleType) -> None:
    original = module.torch_persistent_save

    @functools.wraps(original)
    def torch_persistent_save(obj: Any, filename: Any, async_write: bool = False) -> None:
        if async_write or not isinstance(filename, str) or not module.PathManager.supports_rename(filename):
            original(obj, filename, async_write=async_write)
            return
        # fairseq tries three times into the same open file, so that a second success would stand behind the remains
        # of the first failure, and leaves those remains when the disk is full.
        temporary = f"{filename}.tmp"
        try:
            with open(temporary, "wb") as file:
                module.torch.save(obj, file)
            os.replace(temporary, filename)
        except BaseException as error:
            Path(temporary).unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = filename  # "No space left on device" alone does not say where
            raise

    module.torch_persistent_save = torch_persistent_save  # type: ignore[attr-defined]


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether the file has its end: torch's archives have their table of contents there."""
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("/data.pkl") for name in archive.namelist())
        except (zipfile.BadZipFile, EOFError, OSError):
            return False
    return start[:1] == b"\x80"  # torch's older format, which only its reader can judge


def mend_last_checkpoint(last: str, suffix: str = "") -> None:
    """If ``last`` is cut off, put the newest whole checkpoint of its folder in its place, and say so.

    Raises:
        InputError: there is no whole one.
    """
    if not os.path.isfile(last) or is_whole(last):
        return
    others = [path for path in Path(last).parent.glob(f"checkpoint*{suffix}.pt") if path != Path(last)]
    for other in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        if is_whole(other):
            logger.warning(f"{last} is cut off: going on from {other}, the newest whole checkpoint")
            copy_atomically(str(other), last)
            return
    raise refusal(f"{last} is cut off, and its folder has no whole checkpoint: delete it to start again")


def _resume_from_whole_files(module: ModuleType) -> None:
    original = module.load_checkpoint

    @functools.wraps(original)
    def load_checkpoint(cfg: Any, trainer: Any, **options: Any) -> Any:
        _forget_other_runs(module)
        if cfg.restore_file == "checkpoint_last.pt" and trainer.data_parallel_rank == 0:
            suffix = trainer.checkpoint_suffix or ""
            mend_last_checkpoint(os.path.join(cfg.save_dir, f"checkpoint_last{suffix}.pt"), suffix)
        elif cfg.restore_file != "checkpoint_last.pt" and not os.path.exists(cfg.restore_file):
            _refuse_missing(cfg.restore_file, trainer.checkpoint_suffix or "", module.PathManager)
        return original(cfg, trainer, **options)

    module.load_checkpoint = load_checkpoint  # type: ignore[attr-defined]


def _forget_other_runs(module: ModuleType) -> None:
    # The best score so far hangs on functions, so that the second job of a hydra multirun has that of the first, and
    # makes no checkpoint_best.pt until it beats it.
    for function in (module.save_checkpoint, getattr(sys.modules.get("fairseq_cli.train"), "should_stop_early", None)):
        if function is not None:
            vars(function).pop("best", None)


def _refuse_missing(restore_file: str, suffix: str, manager: Any) -> None:
    # fairseq starts from nothing, with a line among hundreds, when the file that it was told to start from is missing.
    if not manager.exists(restore_file.replace(".pt", f"{suffix}.pt")):
        raise refusal(f"--restore-file {restore_file}: no such checkpoint")


REPAIRS = [
    Repair(
        name="atomic-copies",
        package="fairseq",
        fault="checkpoint_last.pt and checkpoint_best.pt are cut off when the process is killed while it copies them",
        versions="all",
        needed=always,
        apply=lambda: after_import("fairseq.file_io", _copy_whole_files),
    ),
    Repair(
        name="atomic-writes",
        package="fairseq",
        fault="a failed write of a checkpoint is repeated into the same file, and its remains stay behind",
        versions="all",
        needed=always,
        apply=lambda: after_import("fairseq.checkpoint_utils", _write_once),
    ),
    Repair(
        name="whole-restore",
        package="fairseq",
        fault="a run whose checkpoint_last.pt is cut off cannot be taken up again",
        versions="all",
        needed=always,
        apply=lambda: after_import("fairseq.checkpoint_utils", _resume_from_whole_files),
    ),
]
