"""Checkpoints that are whole or not there: a run killed at any moment goes on where it was."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

from speechdlm_ext.compat.errors import InputError, disk_error
from speechdlm_ext.compat.repair import Repair, replace

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


def _copy_whole_files(module: Any) -> None:
    manager = module.PathManager
    original = manager.copy

    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> Any:
        if manager.path_requires_pathmanager(src_path) or manager.path_requires_pathmanager(dst_path):
            return original(src_path, dst_path, overwrite=overwrite)
        return copy_atomically(src_path, dst_path)

    manager.copy = staticmethod(copy)


def _write_once(module: Any) -> None:
    original = module.torch_persistent_save

    @replace(module, "torch_persistent_save")
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
            refused = disk_error(error)  # torch says "unexpected pos 304000 vs 303888" in its stead
            if refused is None:
                raise
            raise OSError(refused.errno, refused.strerror, filename) from error


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether all of the file is there and undamaged; torch's archives have sums to check that."""
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("/data.pkl") for name in archive.namelist()) and archive.testzip() is None
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
    raise InputError(f"{last} is cut off, and its folder has no whole checkpoint: delete it to start again")


def _resume_from_whole_files(module: Any) -> None:
    original = module.load_checkpoint

    @replace(module, "load_checkpoint")
    def load_checkpoint(cfg: Any, trainer: Any, **options: Any) -> Any:
        _forget_other_runs(module)
        suffix = trainer.checkpoint_suffix or ""
        if cfg.restore_file == "checkpoint_last.pt":
            _mend_before_any_rank_reads(os.path.join(cfg.save_dir, f"checkpoint_last{suffix}.pt"), suffix, trainer)
        elif not module.PathManager.exists(cfg.restore_file.replace(".pt", f"{suffix}.pt")):
            # fairseq says so in a line among hundreds; scripts that start a run again rely on its going on.
            logger.warning(f"--restore-file {cfg.restore_file}: no such checkpoint: training starts from nothing")
        return original(cfg, trainer, **options)


def _mend_before_any_rank_reads(last: str, suffix: str, trainer: Any) -> None:
    """Mend the file in one process; the others wait, and end too where it cannot be mended."""
    reason = None
    if trainer.data_parallel_rank == 0:
        try:
            mend_last_checkpoint(last, suffix)
        except InputError as error:
            reason = str(error)
    raise_in_all_processes(reason)


def raise_in_all_processes(reason: str | None) -> None:
    """Raise an :class:`InputError` in every process where one of them has a reason; each must call this."""
    import torch.distributed as dist

    reasons = [reason]
    if dist.is_available() and dist.is_initialized():
        reasons = [None] * dist.get_world_size()
        dist.all_gather_object(reasons, reason)
    for reason in filter(None, reasons):
        raise InputError(reason)


def _forget_other_runs(module: Any) -> None:
    # The best score so far hangs on functions, so that the second job of a hydra multirun has that of the first, and
    # makes no checkpoint_best.pt until it beats it.
    for function in (module.save_checkpoint, getattr(sys.modules.get("fairseq_cli.train"), "should_stop_early", None)):
        if function is not None:
            vars(function).pop("best", None)


class _WithinEpoch:
    """An iterator over epochs that says it is not at an epoch's end, and is else the one given."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def end_of_epoch(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


def _save_interval_at_epoch_end(module: Any) -> None:
    original = module.save_checkpoint

    # The function keeps the best score as an attribute of the module's save_checkpoint, that is, of this one.
    @replace(module, "save_checkpoint")
    def save_checkpoint(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Any) -> None:
        original(cfg, trainer, epoch_itr, val_loss)
        interval, updates = cfg.save_interval_updates, trainer.get_num_updates()
        if interval > 0 and updates > 0 and updates % interval == 0 and epoch_itr.end_of_epoch():
            alone = copy.deepcopy(cfg)
            alone.no_last_checkpoints, alone.keep_last_epochs = True, -1
            original(alone, trainer, _WithinEpoch(epoch_itr), val_loss)


REPAIRS = [
    Repair(
        name="atomic-copies",
        package="fairseq",
        fault="checkpoint_last.pt and checkpoint_best.pt are cut off when the process is killed while it copies them",
        changes={"fairseq.file_io": _copy_whole_files},
    ),
    Repair(
        name="atomic-writes",
        package="fairseq",
        fault="a failed write of a checkpoint is repeated into the same file, and its remains stay behind",
        changes={"fairseq.checkpoint_utils": _write_once},
    ),
    Repair(
        name="interval-at-epoch-end",
        package="fairseq",
        fault="--save-interval-updates writes no checkpoint for the last update of an epoch",
        changes={"fairseq.checkpoint_utils": _save_interval_at_epoch_end},
    ),
    Repair(
        name="whole-restore",
        package="fairseq",
        fault="a run whose checkpoint_last.pt is cut off cannot be resumed",
        changes={"fairseq.checkpoint_utils": _resume_from_whole_files},
    ),
]
