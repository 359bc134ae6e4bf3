"""Units, text and audio to batches: binarizing, dictionaries, data sets, collation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechdlm_ext.data.duplex_dataset import DuplexS2SDataset
    from speechdlm_ext.data.salm_dataset import DataModule, SALMDataset

__all__ = ["DataModule", "DuplexS2SDataset", "SALMDataset"]


def __getattr__(name: str) -> Any:
    """What is loaded when first asked for, because torch and fairseq take seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "DuplexS2SDataset":
        from speechdlm_ext.data import duplex_dataset

        return duplex_dataset.DuplexS2SDataset
    from speechdlm_ext.data import salm_dataset

    return getattr(salm_dataset, name)
