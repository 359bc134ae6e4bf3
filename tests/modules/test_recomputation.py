"""What is made again in the backward pass gives the same gradients, and is not kept."""

from __future__ import annotations

import weakref

import torch
from torch import nn

from speechdlm_ext.modules.dialogue_layer import DialogueLayer
from speechdlm_ext.modules.recomputation import made_again


def test_a_tensor_is_made_again_instead_of_kept() -> None:
    x, linear, made = torch.randn(3, 4, 5), nn.Linear(5, 2), []

    def make() -> torch.Tensor:
        made.append(1)
        return x.tanh()

    normed = x.tanh()
    with made_again(normed, make):
        out = linear(normed) * linear(normed.view(12, 5)).view(3, 4, 2) + normed.transpose(0, 1).sum()
    gone = weakref.ref(normed)
    del normed
    assert gone() is None and not made
    found = torch.autograd.grad(out.sum(), linear.weight)
    plain = linear(x.tanh()) ** 2
    torch.testing.assert_close(found, torch.autograd.grad(plain.sum(), linear.weight))
    assert len(made) == 2


def test_a_layer_in_training_has_the_gradients_of_evaluation() -> None:
    torch.manual_seed(0)
    layer, x = DialogueLayer(16, 32, 4, cross=True), torch.randn(2, 2, 9, 16, requires_grad=True)
    gradients = []
    for training in (True, False):
        layer.train(training)
        gradients.append(torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()]))
    for trained, evaluated in zip(*gradients, strict=True):
        torch.testing.assert_close(trained, evaluated)
