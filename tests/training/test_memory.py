"""The formula of docs/performance.md for the memory of a training step, against what autograd keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.helpers.published import toy_batch, toy_criterion, toy_model


def formula(frames: int, edges: int, dim: int, ffn: int, layers: int, cross: int, units: int, again: bool) -> int:
    """Bytes, in fp32 with dropout, whose decisions a CPU keeps as numbers; ``frames`` are those of all channels."""
    kept, masks = layers * (8 * dim + ffn) + cross * 6 * dim, (2 * layers + cross) * dim
    if again:
        kept, masks = layers * dim, 0
    return 4 * (frames * (kept + masks + 2 * dim) + edges * (units + 2 * dim))


def kept_for_backward(model: torch.nn.Module, step: object) -> int:
    """Bytes of the tensors that a step keeps for its backward pass, each memory once, weights not counted."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage().data_ptr()
        if storage not in own:
            kept[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step()  # type: ignore[operator]
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("dim", "ffn", "layers", "cross"), [(64, 256, 4, 3), (96, 128, 3, 0)])
def test_memory_of_a_step_is_the_formulas(dim: int, ffn: int, layers: int, cross: int, again: bool) -> None:
    sizes = {"decoder_embed_dim": dim, "decoder_ffn_embed_dim": ffn, "decoder_layers": layers}
    model = toy_model(dropout=0.1, decoder_cross_layers=cross, checkpoint_activations=again, **sizes).train()
    criterion, sample = toy_criterion(targets=["edge", "duration"]), toy_batch([200, 200, 200])
    kept = kept_for_backward(model, lambda: criterion(model, sample)[0])
    edges = sum(of_channel[2] for of_channel in sample["counts"])
    assert kept == pytest.approx(formula(1200, edges, dim, ffn, layers, cross, 24, again), rel=0.1)
