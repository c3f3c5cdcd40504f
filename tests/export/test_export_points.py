"""Each kind of point in a file, run by onnxruntime, against its quantizer."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore._onnx import OPTIMIZATIONS, OnnxModel
from qexplore.export.encoding import encoding_of
from qexplore.quant import TensorQuantizer

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

INTEGERS = [f"{kind}_{width}" for kind in ("signed", "narrow", "unsigned", "asymmetric") for width in range(2, 17)]
OTHERS = ["unsigned_1", "asymmetric_1", "float_E4M3", "float_E5M2", "nothing_8", "small_8"]
LOW, HIGH = -1.37, 2.61
NUMBERS = 20_000


class Points(nn.Module):
    """One Identity for each kind and width, all on the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.ModuleDict({name: nn.Identity() for name in [*INTEGERS, *OTHERS]})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(point(x) for point in self.points.values())


class Written(NamedTuple):
    model: qx.QuantizedModel
    path: str
    outputs: dict[str, dict[str, Tensor]]
    x: Tensor


def numbers() -> Tensor:
    """Many of both signs, and some far out."""
    drawn = torch.randn(NUMBERS, generator=torch.Generator().manual_seed(0)) * 1.3
    far = torch.tensor([0.0, -0.0, 1e30, -1e30, 3.4e38, -3.4e38, LOW, HIGH, 1e-30, -1e-30])
    return torch.cat([drawn, far])[:, None]


def set_up(model: qx.QuantizedModel) -> None:
    for name, quantizer in model.activation_fake_quantizers.items():
        kind, choice = name.removeprefix("points.").split("_")
        quantizer.set_amax({"nothing": 0.0, "small": 1e-30}.get(kind, HIGH))
        quantizer.decide_sign(0.0 if kind == "unsigned" else LOW)
        quantizer.asymmetric = kind == "asymmetric"
        quantizer.narrow_range = kind == "narrow"
        quantizer.num_bits = choice if kind == "float" else int(choice)
        if quantizer.asymmetric:
            quantizer.set_amax_table({quantizer.code: HIGH}, {quantizer.code: LOW})


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Written:
    path = tmp_path_factory.mktemp("points") / "points.onnx"
    identities = predicates.by_type(nn.Identity)
    model = qx.QuantizedModel(Points(), identities, quantize_input=False, asymmetric=True)
    set_up(model)
    x = numbers()
    qx.export_onnx(model, path, x[:1])
    outputs = {}
    for level in OPTIMIZATIONS:
        outputs[level] = dict(zip([*INTEGERS, *OTHERS], OnnxModel(path, optimization=level)(x), strict=True))
    return Written(model, str(path), outputs, x)


@pytest.mark.parametrize("level", OPTIMIZATIONS)
@pytest.mark.filterwarnings("ignore:point .* was never negative")
def test_file_gives_what_the_quantizers_give(written, level):
    for name, actual in written.outputs[level].items():
        quantizer = written.model.activation_fake_quantizers[f"points.{name}"]
        expected = quantizer(written.x)
        differs = (actual - expected).abs() > expected.abs() * 2.0**-22
        excused = torch.zeros_like(differs) if name.startswith("float") else is_half_way(written.x, quantizer)
        assert not (differs & ~excused).any(), f"{name} at {level}"
        assert differs.sum() <= NUMBERS / 1000, f"{name} at {level}"


def is_half_way(x: Tensor, quantizer: TensorQuantizer) -> Tensor:
    """Where float32 cannot tell on which side of the middle between two steps a number lies."""
    steps = x.double() / torch.tensor(encoding_of(quantizer, 21).scale)
    return ((steps - steps.floor()) - 0.5).abs() <= steps.abs() * 2.0**-22


def test_range_of_nothing_gives_zeros(written):
    assert not written.outputs["all"]["nothing_8"].any()


def test_file_passes_the_checker(written):
    onnx.checker.check_model(written.path, full_check=True)


def test_integers_in_the_file_are_within_the_width(written):
    """What stands between Q and DQ is read by making it an output of the file."""
    model = onnx.load(written.path)
    quantized = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    eight_bit = [name for name in quantized if types[name] in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)]
    del model.graph.output[:]
    model.graph.output.extend(value for value in model.graph.value_info if value.name in eight_bit)
    path = written.path + ".integers.onnx"
    onnx.save(model, path)

    integers = OnnxModel(path)(written.x)

    seen = sorted(len(torch.unique(one)) for one in integers)
    widths = sorted(
        [2**n - (kind == "narrow") for kind in ("signed", "narrow", "unsigned", "asymmetric") for n in (5, 6, 7, 8)]
    )
    # The input is negative too, and does not fill every grid; none may hold more than its width.
    assert len(seen) == len(widths) + 2  # with those of nothing and of a small range
    assert all(few <= many for few, many in zip(seen[2:], widths, strict=True))


@pytest.mark.parametrize("size", [1, 3, 64])
def test_every_batch_size_is_taken(written, size):
    assert OnnxModel(written.path)(written.x[:size])[0].shape == (size, 1)
