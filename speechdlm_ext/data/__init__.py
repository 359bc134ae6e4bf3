"""Units, text and audio to batches: binarizing, dictionaries, data sets, collation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechdlm_ext.data.data_module import DataModule
    from speechdlm_ext.data.duplex_dataset import DuplexS2SDataset
    from speechdlm_ext.data.salm_dataset import SALMDataset

__all__ = ["DataModule", "DuplexS2SDataset", "SALMDataset"]


def __getattr__(name: str) -> Any:
    """What is loaded when first asked for, because torch and fairseq take seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from speechdlm_ext.data import data_module

    return getattr(data_module, name)
