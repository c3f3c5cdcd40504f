"""Kullback-Leibler divergence between a histogram and what quantization leaves of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


def divergences(counts: Floats, first: Places, stop: Places, borders: Floats) -> Floats:
    """The divergence for each of ``C`` ranges of bins, as TensorRT's entropy calibration defines it.

    The reference is the histogram within the range, with what lies outside added to its end bins; the quantized one
    gives every level's count, without the outsiders, in equal parts to those of its bins that are not empty (S. Migacz,
    "8-bit Inference with TensorRT", GTC 2017; pytorch-quantization's ``calib/histogram.py``).

    A range that leaves out more than one level's share of the values, ``1 / N`` of them, is not considered. Of tensors
    with few distinct values, such as images of 17 grey levels, a range of one filled bin would be the best: with all
    outsiders in that bin, reference and quantized histogram are equal. On bell-shaped data the least divergence leaves
    out a fifth of such a share at most, so that nothing changes there.

    Args:
        counts: of the bins, shape ``[B]``.
        first: first bin of each range, shape ``[C]``.
        stop: bin behind the last of each range.
        borders: where levels begin and the last one ends, rising from 0 to 1, in shares of a range, shape ``[N + 1]``.

    Returns:
        In nats, shape ``[C]``; infinite where an end bin that takes outsiders was empty, or too many are left out.
    """
    total = counts.sum()
    sums, filled, products = (np.concatenate([[0.0], np.cumsum(one)]) for one in (counts, counts > 0, _x_log_x(counts)))
    edges = first[:, None] + np.ceil(borders * (stop - first)[:, None] - 1e-9).astype(np.int64)
    per_level = np.diff(sums[edges], axis=1)
    shared = per_level / np.maximum(np.diff(filled[edges], axis=1), 1.0)
    below, above = sums[first], total - sums[stop]
    inside = total - below - above
    reference = products[stop] - products[first]
    quantized = (per_level * _log(shared)).sum(axis=1)
    with np.errstate(divide="ignore"):
        for outsiders, end in ((below, first), (above, stop - 1)):
            level = (edges[:, 1:] <= end[:, None]).sum(axis=1).clip(max=shared.shape[1] - 1)
            own = np.where(counts[end] > 0, np.take_along_axis(shared, level[:, None], axis=1)[:, 0], 0.0)
            reference += _x_log_x(counts[end] + outsiders) - _x_log_x(counts[end])
            quantized += np.where(outsiders > 0, outsiders * np.log(own, where=outsiders > 0, out=own * 0), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = (reference - quantized) / total - np.log(total) + np.log(inside)
    num_levels = len(borders) - 1
    return np.where((inside > 0) & ((below + above) * num_levels <= total), result, np.inf)


def _log(x: Floats) -> Floats:
    """With 0 for 0."""
    return np.log(np.where(x > 0, x, 1.0))


def _x_log_x(x: Floats) -> Floats:
    return x * _log(x)
