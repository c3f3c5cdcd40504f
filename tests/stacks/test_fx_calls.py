"""Calls of functions are lowered with all that they say."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qexplore as qx


class Padding(nn.Module):
    def __init__(self, kernel_size, padding, dilation):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.weight = nn.Parameter(0.1 * torch.randn(8, 8, *kernel_size))
        self.given = {"padding": padding, "dilation": dilation}

    def forward(self, x):
        return self.last(F.conv2d(self.first(x), self.weight, **self.given))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(
    ("kernel_size", "padding", "dilation"),
    [((3, 3), "same", 1), ((5, 3), "same", (1, 2)), ((2, 3), "same", 1), ((3, 4), "same", 1), ((3, 3), "valid", 1)],
)
def test_padding_by_name_is_that_of_the_float_network(kernel_size, padding, dilation):
    torch.manual_seed(0)
    network, x = Padding(kernel_size, padding, dilation).eval(), torch.randn(8, 3, 10, 10)
    result = qx.quantize_static(network, [x], stack="fx")
    rows = {row.name: row for row in result.report.strategy}
    assert rows["conv2d"].weights and result.report.error < 0.05
    assert result.model(x).shape == network(x).shape
