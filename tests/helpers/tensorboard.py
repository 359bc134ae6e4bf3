"""What tensorboard's files hold."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def texts_of(folder: Path, name: str) -> list[tuple[int, str]]:
    """Steps and texts of this name, in order."""
    events = EventAccumulator(str(folder)).Reload()
    return [(each.step, each.tensor_proto.string_val[0].decode()) for each in events.Tensors(f"{name}/text_summary")]
