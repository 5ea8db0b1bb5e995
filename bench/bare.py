"""The bare arithmetic of one constrained step of an MLP: a bound on the step's time, not an implementation.

It computes every product of the step once. It has no model, autograd, memory policy, check or plugin.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from avalanche_mgem.functional import dual
from avalanche_mgem.memory import MemoryGroups
from avalanche_mgem.references._pairs import LinearLayer, PairedLayers, members
from avalanche_mgem.solvers import exact


def bare_step(
    model: nn.Module, groups: MemoryGroups, g: Tensor, memory_strength: float
) -> Callable[[], Tensor]:
    """A function that computes the update of ``model`` from its gradient.

    Args:
        model: linear layers with ReLU in between.
        groups: the memory. The step uses all of it.
        g: the gradient of a minibatch ``[P]``.
        memory_strength: gamma.
    """
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    weights, biases = [layer.weight.detach() for layer in linear], [layer.bias.detach() for layer in linear]
    slices, start = [], 0
    for p in model.parameters():
        slices.append(slice(start, start + p.numel()))
        start += p.numel()
    x, y, sizes = groups.x, groups.y, groups.sizes
    group_of = members(((sizes, 0, 1),), len(sizes), g.dtype, g.device)
    shares = (group_of / group_of.sum(dim=0)).sum(dim=1, keepdim=True)  # a sample's weight in a mean
    rows = torch.arange(len(x), device=x.device)

    @torch.no_grad()
    def step() -> Tensor:
        inputs = [x.index_select(0, rows).flatten(1)]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            inputs.append(torch.addmm(bias, inputs[-1], weight.T).relu_())
        d = torch.addmm(biases[-1], inputs[-1], weights[-1].T).softmax(dim=1)
        d[rows, y] -= 1.0
        d *= shares
        gradients = [d]
        for a, weight in zip(reversed(inputs[1:]), reversed(weights[1:]), strict=True):
            gradients.append((gradients[-1] @ weight).mul_(a > 0))
        places = zip(slices[::2], slices[1::2], inputs, reversed(gradients), strict=True)
        pairs = PairedLayers(0, group_of, [LinearLayer(*place) for place in places])
        K, b = g.new_zeros(1, len(sizes), len(sizes)), g.new_zeros(1, len(sizes))
        pairs.add_products(K[0], b[0], g)
        z = g.clone()
        pairs.add_update(z, dual(K, b, memory_strength=memory_strength, solver=exact)[0])
        return z

    return step
