"""Layers with tensors that hold nothing: an abandoned fast path, buffers that are never filled, absent biases."""

from __future__ import annotations

import functools
from typing import Any

from speechdlm_ext.compat.repair import Repair, replace

# A second set of an encoder layer's weights, for torch's fused layer in inference alone.
_FAST_PATH = tuple(f"{name}_{part}" for name in ("in_proj", "out_proj", "fc1", "fc2") for part in ("weight", "bias"))


def _leave_the_fast_path(module: Any) -> None:
    """Keep encoder layers to the path on which they are trained, also when they are loaded.

    fairseq calls torch's fused layer without saying what kind of mask it passes, which torch 2 refuses. And it fills
    the layer's second set of weights from the first whenever a checkpoint is loaded, so that the checkpoints of a run
    that was resumed differ from those of one that was not.
    """
    layer = module.TransformerEncoderLayerBase
    if "_load_from_state_dict" not in vars(layer):  # other fairseqs have no fast path
        return

    @replace(layer, "_load_from_state_dict")
    def _load_from_state_dict(self: Any, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in _FAST_PATH:
            state_dict[prefix + name] = getattr(self, name).detach().clone()
        super(layer, self)._load_from_state_dict(state_dict, prefix, *rest)


def _fill_buffer(class_name: str, module: Any) -> None:
    """Let ``_float_tensor``, which only tells the device, be 0 and not whatever was in memory, perhaps NaN."""
    layer = getattr(module, class_name)
    original = layer.__init__

    @replace(layer, "__init__")
    def __init__(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        if hasattr(self, "_float_tensor"):
            self._float_tensor.zero_()

    @replace(layer, "_load_from_state_dict")
    def _load_from_state_dict(self: Any, *args: Any) -> None:
        super(layer, self)._load_from_state_dict(*args)
        if hasattr(self, "_float_tensor"):
            self._float_tensor.zero_()


def _pass_over_absent_biases(module: Any) -> None:
    """Leave out the ``None`` of layers without biases, which are all one and no parameter that is shared."""
    original = module._catalog_shared_params

    @replace(module, "_catalog_shared_params")
    def catalog(model: Any, *rest: Any) -> list[list[str]] | None:
        shared = original(model, *rest)
        if shared is None:  # of a part of a model: what was found is in the memo
            return None
        return [names for names in shared if module._get_module_by_path(model, names[0]) is not None]


REPAIRS = [
    Repair(
        name="encoder-fast-path",
        package="fairseq",
        fault="RuntimeError: Mask Type should be defined (generation with a post-norm transformer encoder)",
        changes={"fairseq.modules.transformer_layer": _leave_the_fast_path},
    ),
    Repair(
        name="unfilled-buffers",
        package="fairseq",
        fault="checkpoints of equal runs differ in tensors that are never filled",
        changes={
            f"fairseq.modules.{name}": functools.partial(_fill_buffer, class_name)
            for name, class_name in (
                ("sinusoidal_positional_embedding", "SinusoidalPositionalEmbedding"),
                ("adaptive_softmax", "AdaptiveSoftmax"),
                ("adaptive_input", "AdaptiveInput"),
            )
        },
    ),
    Repair(
        name="absent-biases",
        package="fairseq",
        fault="'detected shared parameter' in the log for every layer that has no bias",
        changes={"fairseq.trainer": _pass_over_absent_biases},
    ),
]
