"""The kernel for accelerators gives torch's bits; it is run by Triton's interpreter, and compiled, without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from qexplore.quant import FixedQuantizer, QuantDescriptor, QuantizerByData, TensorQuantizer, quantize_stacked, row_of
from qexplore.quant import fixed as fixed_room
from qexplore.quant.device_kernel import device_kernel

pytest.importorskip("triton")

INTERPRETED = """
import torch
from qexplore.quant import triton_kernel
from qexplore.quant.device_kernel import checked_kernel
kernel = checked_kernel(torch.device("cpu"))
assert kernel is not None, "not torch's bits"

def passes(x, row):
    scale, divisor, low, high, _ = row
    return x.mul(scale).round().clamp(low, high).div(divisor)

x = torch.randn(3, 5, 7, 9, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
rows = torch.tensor([[9.3, 9.3, -8.0, 7.0, 1.0], [2.1, 2.1, 0.0, 15.0, 1.0], [1.0, 1.0, 0.0, 6.0, 0.0]])
target = torch.empty(9, 5, 7, 9).to(memory_format=torch.channels_last)
kernel(x, None, target, rows)
expected = torch.cat([passes(x, rows[0]), passes(x, rows[1]), x.clamp(0, 6)])
assert torch.equal(target, expected), "several rows"
doubled = passes(x + x, rows[0])
kernel(x, x, x, rows[0])
assert torch.equal(x, doubled), "a sum, in place"
kernel(torch.empty(0), None, torch.empty(0), rows[0])
right = triton_kernel.fake_quantize

def wrong(source, addend, target, rows):
    right(source, addend, target, rows)
    target[0, 3] += 1e-6

triton_kernel.fake_quantize = wrong
assert checked_kernel(torch.device("cpu")) is None, "other bits"
print("agrees")
"""


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_kernel_gives_torchs_bits_and_one_that_does_not_is_not_taken() -> None:
    assert run_python(INTERPRETED, TRITON_INTERPRET="1") == "agrees"


def test_it_compiles_for_a_gpu_without_fusing_product_and_sum_and_divides_truly() -> None:
    code = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from qexplore.quant.triton_kernel import _fake_quantize
kinds = dict.fromkeys(("source", "addend", "target", "rows"), "*fp32") | {"count": "i32"}
source = ASTSource(_fake_quantize, kinds | {"ADDS": "constexpr", "BLOCK": "constexpr"}, {"ADDS": True, "BLOCK": 1024})
ptx = compile(source, GPUTarget("cuda", 90, 32), {"enable_fp_fusion": False}).asm["ptx"]
print("fma" in ptx, "div.rn.f32" in ptx, ".ftz" in ptx, "div.full" in ptx)
"""
    assert run_python(code) == "False True False False"


@pytest.mark.slow
def test_importing_the_package_leaves_triton_alone() -> None:
    assert run_python("import sys, qexplore, qexplore.quant; print('triton' in sys.modules)") == "False"


def test_there_is_none_on_the_cpu_nor_on_a_device_for_which_triton_has_no_code(accelerator: torch.device) -> None:
    device_kernel.cache_clear()
    assert device_kernel(torch.device("cpu")) is None
    assert device_kernel(accelerator) is None


def settled(unsigned: bool, num_bits: int) -> FixedQuantizer:
    quantizer = TensorQuantizer(QuantDescriptor(num_bits=8, unsigned=unsigned, amax=2.7))
    return FixedQuantizer.of(quantizer, num_bits)


@pytest.mark.parametrize("clamp", [None, (0.0, float("inf")), (0.0, 6.0)])
@pytest.mark.parametrize("num_bits", [2, 5, 8, None])
def test_a_quantizer_by_data_gives_what_the_settled_one_gives(
    clamp: tuple[float, float] | None, num_bits: int | None
) -> None:
    x, y = torch.randn(2, 3, 4, 5) * 2, torch.randn(2, 3, 4, 5)
    quantizer = None if num_bits is None else settled(False, num_bits)
    if quantizer is not None and clamp is not None:
        quantizer = quantizer.behind_clamp(*clamp)
    by_data = QuantizerByData(torch.tensor(row_of(quantizer, clamp)))
    for addend in (None, y):
        total = x if addend is None else x + addend
        off = total if clamp is None else total.clamp(*clamp)
        assert torch.equal(by_data(x, addend), off if quantizer is None else quantizer(x, addend))


def test_what_a_row_cannot_say_has_none() -> None:
    per_channel = TensorQuantizer(QuantDescriptor(num_bits=8, axis=0))
    per_channel.amax = torch.tensor([[1.0], [2.0]])
    assert row_of(FixedQuantizer.of(per_channel, 4), None) is None
    with pytest.raises(TypeError, match="float16"):
        QuantizerByData(torch.ones(5))(torch.ones(3, dtype=torch.float16))


def test_settled_quantizers_take_the_kernel_where_it_is_had(
    accelerator: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another in its place, which computes on the CPU by torch's passes, and counts rows."""
    rows_seen = []

    def kernel(source: torch.Tensor, addend: torch.Tensor | None, target: torch.Tensor, rows: torch.Tensor) -> None:
        held = source.cpu(), None if addend is None else addend.cpu()
        each = rows.cpu().view(-1, 5)
        rows_seen.append(len(each))
        target.copy_(torch.cat([QuantizerByData(row)(*held) for row in each]))

    x, y = torch.randn(4, 3), torch.randn(4, 3)
    one, other = settled(False, 3), settled(False, 6)
    expected = [one(x), one(x, y), torch.cat([one(x), other(x)]), one(x.t()), one(x)]
    monkeypatch.setattr(fixed_room, "device_kernel", lambda device: kernel)
    there, addend = x.to(accelerator), y.to(accelerator)
    got = [one(there), one(there, addend), quantize_stacked(there, [one, other])]
    got += [one(there.t()), one(there, in_place=True)]
    assert all(torch.equal(a, b.cpu()) for a, b in zip(expected, got, strict=True))
    assert got[-1] is there
    assert rows_seen == [1, 1, 2, 1]  # a transposed tensor does not fill its memory in order
