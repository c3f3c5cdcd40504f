"""Hypothesis strategies that the tests share."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

_FLOAT32_MAX = float(np.finfo(np.float32).max)

floats = st.floats(width=32, allow_nan=True, allow_infinity=False, allow_subnormal=True)
"""float32 values: both zeros, subnormals, the largest ones, NaN."""

ranges = st.one_of(
    st.sampled_from([0.0, 2.0**-24, 2.0**-23, 1.0, 127.0, _FLOAT32_MAX]),
    st.floats(min_value=0, max_value=2.0**100, width=32, allow_subnormal=True),
)
"""Values of ``amax``, dead ranges included."""


def widths(*, unsigned: bool) -> st.SearchStrategy[int]:
    """Every width that the sign allows."""
    return st.integers(min_value=1 if unsigned else 2, max_value=16)


@st.composite
def tensors(draw: st.DrawFn, *, non_negative: bool = False, min_dims: int = 1) -> Tensor:
    """float32 tensors of up to four axes; moderate numbers beside the extremes of `floats`."""
    shape = draw(hnp.array_shapes(min_dims=min_dims, max_dims=4, max_side=4))
    elements = st.one_of(st.floats(-10, 10, width=32), floats)
    array = draw(hnp.arrays(np.float32, shape, elements=elements))
    tensor = torch.from_numpy(array)
    return tensor.abs() if non_negative else tensor
