"""One stack on one small network, without the reports of a workflow: what it gives beside the float network."""

from __future__ import annotations

import copy

import torch
from torch import nn

from qexplore.stacks import STACKS
from qexplore.stacks.base import Data, Settings
from qexplore.stacks.torch_ao import using_engine


class Made(nn.Module):
    """A network of a function and its modules."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


def linear(num_inputs=8, num_outputs=8, times=1.0):
    """A Linear layer whose outputs are ``times`` as large."""
    layer = nn.Linear(num_inputs, num_outputs)
    with torch.no_grad():
        layer.weight.mul_(times)
        layer.bias.mul_(times)
    return layer


def with_statistics(network, x):
    """``network`` in eval mode, its BatchNorm with the statistics of ``x`` and weights that scale."""
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        if norm.affine:
            nn.init.uniform_(norm.weight, 1.5, 2.5)
            nn.init.normal_(norm.bias)
    with torch.no_grad():
        network.train()(x)
    for norm in norms:
        norm.momentum = 0.0
    return network.eval()


def converted(stack, method, network, x, **settings):
    """What ``stack`` makes of ``network``, calibrated with ``x``, or trained with it at a rate of zero."""

    def train(prepared, freeze):
        prepared.train()
        for _ in range(60):
            prepared(x)
        freeze()
        prepared(x)
        prepared.eval()

    def calibrate(prepared):
        with torch.no_grad():
            prepared(x)

    settings = Settings(method, stack, **settings)
    return STACKS[stack].home.quantize(copy.deepcopy(network), settings, Data((x,), calibrate, train, loader=[x]))


def relative_error(stack, method, network, x, **settings):
    """Norm of the difference that ``stack`` makes to the output, over the norm of the float one."""
    engine = settings.get("engine")
    made = converted(stack, method, network, x, **settings).model
    with torch.no_grad(), using_engine(engine if stack in ("fx", "eager") else None):
        expected, given = network(x), made(x)
    return float((given - expected).norm() / expected.norm())
