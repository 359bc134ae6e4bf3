"""Data configurations as published (``train_ds``, ``validation_ds``), for the tasks and for loops of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speechdlm_ext.data.conversations import Conversation, iter_conversations
from speechdlm_ext.data.duplex_cuts import DuplexCut, read_cuts
from speechdlm_ext.data.duplex_dataset import DuplexCuts, DuplexS2SDataset
from speechdlm_ext.data.llm_tokenizer import LLMTokenizer
from speechdlm_ext.data.salm_dataset import FRAME_SECONDS, ConversationDataset, SALMDataset
from speechdlm_ext.data.token_dataset import TokenDataset
from speechdlm_ext.errors import InputError, one_line
from speechdlm_ext.io.config import read_config

_KINDS = {
    "lhotse_as_conversation", "multimodal_conversation", "nemo", "lhotse", "lhotse_shar", "s2s_conversation",
    "share_gpt",
}  # fmt: skip
_PATHS = ("manifest_filepath", "cuts_path", "shar_path")


def find_section(path: Path, split: str) -> dict[str, Any]:
    """The section of a YAML file for a split: ``train_ds``, or that of a data set in ``validation_ds``.

    Raises:
        InputError: the file is no data configuration, or has no such data set.
    """
    config = read_config(path, "data")
    try:
        if split.startswith("train"):
            return dict(config["train_ds"])
        sets = validation_sections(config)
    except (KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: no data configuration ({type(error).__name__}: {one_line(error)})") from None
    if split not in sets:
        raise InputError(f"{path}: no validation set {split}; --valid-subset takes {', '.join(sets)}")
    return sets[split]


def validation_sections(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The section of each named validation set; what they have in common stands beside ``datasets``."""
    section = config["validation_ds"]
    return {name: {**section, **(one or {})} for name, one in (section.get("datasets") or {"valid": {}}).items()}


def section_files(section: Mapping[str, Any], folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The files and folders of a section, each with its entry.

    Args:
        section: with ``input_cfg``, a list of ``{type, manifest_filepath | cuts_path | shar_path}``, or one such path.
        folder: that relative paths are also looked for in.

    Raises:
        InputError: a type that is not known, or an entry without a path.
    """
    own = [section] if any(section.get(name) for name in _PATHS) else []
    for source in section.get("input_cfg") or own:
        if source is not section and source.get("type") not in _KINDS:
            raise InputError(f"input_cfg: type {source.get('type')}; expected one of {', '.join(sorted(_KINDS))}")
        name = next((source[key] for key in _PATHS if source.get(key)), None)
        if not isinstance(name, str):
            raise InputError(f"input_cfg: an entry without one path in {', '.join(_PATHS)}")
        yield (Path(name) if os.path.exists(name) else folder / name), source


def read_conversations(section: Mapping[str, Any], tag: str, folder: Path = Path()) -> list[Conversation]:
    """The conversations of a section; ``tags`` of an entry may have ``context`` and ``system_prompt``.

    Raises:
        InputError: as :func:`section_files` and :func:`.iter_conversations`, or there are none.
    """
    found: list[Conversation] = []
    for path, source in section_files(section, folder):
        tags = source.get("tags") or {}
        own = source.get("audio_locator_tag", tag)
        context, system = str(tags.get("context", "")), str(tags.get("system_prompt", ""))
        found += iter_conversations(path, str(own), context, system)
    if not found:
        raise InputError("a data section without input_cfg, or with empty files")
    return found


def read_section_cuts(section: Mapping[str, Any], folder: Path = Path()) -> list[DuplexCut]:
    """The conversations of a section for duplex models; raises as :func:`section_files` and :func:`.read_cuts`."""
    found = [cut for path, _ in section_files(section, folder) for cut in read_cuts(path)]
    if not found:
        raise InputError("a data section without input_cfg, cuts_path or shar_path")
    return found


class DataModule:
    """Batches of a data configuration with ``train_ds`` and ``validation_ds``, for loops of one's own.

    Batches are of like length, with at most ``batch_size`` conversations, ``batch_duration`` seconds of audio and
    ``batch_tokens`` positions of text and audio (or frames of a duplex model), padding included.

    Args:
        cfg: plain values.
        tokenizer: of the model.
        dataset: makes batches, a :class:`.SALMDataset` or a :class:`.DuplexS2SDataset`; by default one of the former.
        folder: that relative paths are also looked for in.
    """

    def __init__(
        self,
        cfg: Mapping[str, Any],
        tokenizer: LLMTokenizer,
        dataset: SALMDataset | DuplexS2SDataset | None = None,
        folder: str | os.PathLike[str] = ".",
    ) -> None:
        self.cfg, self.tokenizer, self.folder = cfg, tokenizer, Path(folder)
        self.dataset = dataset or SALMDataset(tokenizer)

    def train_dataloader(self, epoch: int = 1) -> Iterator[dict[str, Any]]:
        """An epoch of training batches, in random order."""
        return self._batches(self.cfg["train_ds"], epoch)

    def val_dataloader(self) -> dict[str, Iterator[dict[str, Any]]]:
        """Batches of each named validation set."""
        return {name: self._batches(one, None) for name, one in validation_sections(self.cfg).items()}

    def _batches(self, section: Mapping[str, Any], epoch: int | None) -> Iterator[dict[str, Any]]:
        training, seed, dataset = epoch is not None, int(section.get("seed") or 1), self.dataset
        seconds, tokens = section.get("batch_duration"), section.get("batch_tokens")
        data: TokenDataset
        items: Any
        if isinstance(dataset, DuplexS2SDataset):
            items = read_section_cuts(section, self.folder)
            data = DuplexCuts(items, dataset, training, seed)
            limits = [seconds and int(seconds / dataset.frame_length), tokens]
            tokens = min((limit for limit in limits if limit), default=None)
        else:
            found = read_conversations(section, dataset.audio_locator_tag, self.folder)
            hop = round(float(section.get("token_equivalent_duration", FRAME_SECONDS)) * dataset.sample_rate)
            frames = lambda samples: -(-samples // hop)  # noqa: E731
            data = ConversationDataset(found, dataset, frames, seconds, None, training, seed)
            items = data.conversations
        data.set_epoch(epoch or 1)
        batches = data.batch_by_size(data.ordered_indices(), tokens, section.get("batch_size"))
        order = data.random(2).permutation(len(batches)) if training else range(len(batches))
        return (dataset[[items[i] for i in batches[at]]] for at in order)
