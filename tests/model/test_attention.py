"""Attention in parts against torch's fused kernel."""

import pytest
import torch
from torch.nn import functional as F

from qexplore.model import attention_in_parts


def run(part, function, args, kwargs):
    return function(*args, **kwargs)


def heads(count, length, size=4, seed=0):
    return torch.randn(2, count, length, size, generator=torch.Generator().manual_seed(seed))


LOWER = torch.ones(5, 7).tril().bool()
OPTIONS = {
    "nothing": {},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.3},
    "mask of bools": {"attn_mask": LOWER},
    "a row that sees nothing": {"attn_mask": LOWER & (torch.arange(5) != 2)[:, None]},
    "mask to add": {"attn_mask": torch.zeros(5, 7).masked_fill(~LOWER, -torch.inf)},
    "bias for each head": {"attn_mask": torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(3))},
    "grouped heads": {"enable_gqa": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_parts_give_what_the_fused_kernel_gives(options):
    keys = 2 if "enable_gqa" in options else 4
    query, key, value = heads(4, 5), heads(keys, 7, seed=1), heads(keys, 7, seed=2)
    fused = F.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(attention_in_parts(run, query, key, value, **options), fused)


def test_dropout_of_weights_is_drawn_as_torch_draws_it():
    query = heads(2, 5)
    torch.manual_seed(0)
    dropped = attention_in_parts(run, query, query, query, dropout_p=0.5)
    assert not torch.allclose(dropped, attention_in_parts(run, query, query, query))
    torch.manual_seed(0)
    weights = F.dropout(F.softmax(query @ query.transpose(-2, -1) * 0.5, dim=-1), 0.5)
    torch.testing.assert_close(dropped, weights @ query)
