"""What validation shows beside numbers: the texts of a few utterances, and which labels were taken for which."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
EXAMPLES = 5
_CONFUSIONS = 10  # most frequent ones that are logged


class ValidationLog:
    """Gathers while a data set is validated; written as text of tensorboard beside fairseq's curves."""

    def __init__(self) -> None:
        self._examples: dict[int, tuple[str, str]] = {}
        self._writer: Any = None

    def add(self, number: int, said: str, found: str) -> None:
        """Keep the texts of an utterance, if its number in the data set is among the lowest."""
        self._examples[number] = said, found
        if len(self._examples) > EXAMPLES:
            del self._examples[max(self._examples)]

    def write(self, folder: Optional[str], step: int, labels: Sequence[str], counts: Optional[Tensor] = None) -> None:
        """Write what was gathered, and begin anew.

        Args:
            folder: of tensorboard; None for none.
            step: number of updates.
            labels: in order.
            counts: by label, then by prediction (V, V); the most frequent confusions are logged, too.
        """
        pages = {}
        if self._examples:
            texts = [texts for _, texts in sorted(self._examples.items())]
            pages["examples"] = _table([("said", "recognised"), *texts])
        if counts is not None:
            numbers = counts.long().tolist()
            rows = [(label, *map(str, row)) for label, row in zip(labels, numbers, strict=True)]
            pages["confusion"] = _table([("labelled", *labels), *rows])
            wrong = counts - counts.diag().diag()
            most = torch.argsort(wrong.flatten(), descending=True, stable=True)[:_CONFUSIONS].tolist()
            pairs = [divmod(place, len(labels)) for place in most]
            named = [f"{labels[a]} → {labels[b]} {numbers[a][b]}" for a, b in pairs if a != b and numbers[a][b]]
            logger.info("label → what was recognised: %s", ", ".join(named) or "no confusions")
        self._examples.clear()
        if not folder or not pages:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(Path(folder, "valid")))
        for name, text in pages.items():
            self._writer.add_text(name, text, step)
        self._writer.flush()


def _table(rows: Sequence[Sequence[str]]) -> str:
    """In markdown; the first row is the header."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
