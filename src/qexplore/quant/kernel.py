"""Fake quantization in one pass over memory: a few lines of C, where a compiler is at hand.

torch takes four passes: multiply, round, clamp, divide. ``torch.compile`` fuses them too, but takes seconds to load and
to compile; this takes a fraction of one. `fused_kernel` gives None where it cannot be had, and callers take the passes.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

SWITCH = "QEXPLORE_COMPILE"
"""Environment variable; ``0`` leaves compilers alone."""

Kernel = Callable[[int, int, int, int, float, float, float, float], None]
"""``kernel(source, addend, target, count, scale, low, high, divisor)`` on float32 numbers at these addresses, some of
which may be the same; address 0 for no addend."""

# Comparisons with NaN are false, so NaN passes, as it does in torch. No contraction: a product must round before it is
# rounded to an integer.
_SOURCE = """
#include <math.h>
#include <stddef.h>

static inline float one(float x, float scale, float low, float high, float divisor)
{
    float v = nearbyintf(x * scale);
    v = v < low ? low : v;
    v = v > high ? high : v;
    return v / divisor;
}

void fake_quantize(const float *x, const float *a, float *y, ptrdiff_t n, float scale, float low, float high,
                   float divisor)
{
    if (a)
        for (ptrdiff_t i = 0; i < n; i++)
            y[i] = one(x[i] + a[i], scale, low, high, divisor);
    else
        for (ptrdiff_t i = 0; i < n; i++)
            y[i] = one(x[i], scale, low, high, divisor);
}
"""
_FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-shared", "-fPIC")
_SECONDS = 20


@functools.cache
def fused_kernel() -> Kernel | None:
    """The compiled kernel; None without a compiler, or when its results are not torch's bit for bit."""
    if os.environ.get(SWITCH) == "0" or not sys.platform.startswith("linux"):
        return None
    named = os.environ.get("CC", "").split()[:1]
    compiler = next((found for name in (*named, "cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        return None
    # For this very processor if the compiler knows how to say that.
    for for_this_machine in (("-march=native",), ()):
        kernel = _compiled([compiler, *_FLAGS, *for_this_machine])
        if kernel is not None and _agrees_with_torch(kernel):
            return kernel
    return None


def _compiled(command: Sequence[str]) -> Kernel | None:
    try:
        with tempfile.TemporaryDirectory(prefix="qexplore-") as folder:
            source, library = Path(folder, "kernel.c"), Path(folder, "kernel.so")
            source.write_text(_SOURCE)
            subprocess.run(
                [*command, str(source), "-o", str(library), "-lm"], check=True, capture_output=True, timeout=_SECONDS
            )
            function = ctypes.CDLL(str(library)).fake_quantize  # stays mapped after its file is gone
    except (OSError, subprocess.SubprocessError, AttributeError):
        return None
    function.argtypes = [*[ctypes.c_void_p] * 3, ctypes.c_ssize_t, *[ctypes.c_float] * 4]
    function.restype = None
    return function


def _agrees_with_torch(kernel: Kernel) -> bool:
    def run(x: Tensor, addend: Tensor | None, numbers: Sequence[float]) -> Tensor:
        got, (scale, divisor, low, high) = torch.empty_like(x), numbers
        kernel(
            x.data_ptr(),
            0 if addend is None else addend.data_ptr(),
            got.data_ptr(),
            x.numel(),
            scale,
            low,
            high,
            divisor,
        )
        return got

    return agrees_with_torch(run, torch.device("cpu"))


def agrees_with_torch(run: Callable[[Tensor, Tensor | None, Sequence[float]], Tensor], device: torch.device) -> bool:
    """Whether a kernel gives the bits of torch's passes.

    Compared on half-way values, NaN, infinities, both zeros, subnormals and random numbers.

    Args:
        run: gives what the kernel makes of a tensor, or of its sum with another, with ``[scale, divisor, low, high]``.
        device: where the tensors are to lie.
    """
    ramp = torch.arange(-40.0, 40.5, 0.25)
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-42, -1e-42, 3e38, -3e38])
    drawn = torch.randn(4001, generator=torch.Generator().manual_seed(0)) * 3
    x = torch.cat([ramp, special, drawn]).to(device)
    for addend in (None, x.flip(0)):
        total = x if addend is None else x + addend
        for scale in (1.0, 127 / 2.7182817, 1 / 3.0, 0.0):
            factor = torch.tensor(scale, device=device)
            divisor = torch.tensor(scale or 1.0, device=device)
            expected = total.mul(factor).round_().clamp_(-8, 7).div_(divisor)
            if not _same(expected, run(x, addend, [float(factor), float(divisor), -8.0, 7.0])):
                return False
    return True


def _same(expected: Tensor, got: Tensor) -> bool:
    """Whether all bits agree, NaN apart, which may be any NaN."""
    numbers = ~expected.isnan()
    same = torch.equal(expected.view(torch.int32)[numbers], got.view(torch.int32)[numbers])
    return same and bool(got[~numbers].isnan().all())
