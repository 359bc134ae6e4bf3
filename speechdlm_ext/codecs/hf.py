"""What the codecs of transformers (extra [hf]) have in common: loading, and how far SEANet's layers reach."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from speechdlm_ext.errors import InputError, one_line, optional_import


def load_model(name: str, model: str) -> Any:
    """The model ``transformers.NAME`` of a folder as ``save_pretrained`` writes it, or of a name on the hub.

    Raises:
        InputError: transformers is not installed, or the model cannot be loaded or is of another kind.
    """
    with optional_import("transformers is not installed", "hf"):
        import transformers
    cls = getattr(transformers, name)
    try:
        config = transformers.AutoConfig.from_pretrained(model)
        if not isinstance(config, cls.config_class):
            raise InputError(f"{model}: a model of the type {config.model_type}, {name} is expected")
        return cls.from_pretrained(model, config=config)
    except InputError:
        raise
    except Exception as error:  # of the network, of files
        raise InputError(f"{model}: it cannot be loaded as {name}: {one_line(error)[:300]}") from None


def reach(layers: nn.Module) -> int:
    """Positions of the input, before its own, that an output of causal convolutions depends on.

    Args:
        layers: in the order of the computing; of parallel ones, the longest alone has a kernel of more than 1.
    """
    total, step = 0.0, 1.0
    for layer in layers.modules():
        if isinstance(layer, nn.ConvTranspose1d):
            total += (math.ceil(layer.kernel_size[0] / layer.stride[0]) - 1) * step
            step /= layer.stride[0]
        elif isinstance(layer, nn.Conv1d):
            total += (layer.kernel_size[0] - 1) * layer.dilation[0] * step
            step *= layer.stride[0]
    return math.ceil(total)
