"""The networks of torch's own quantization tests, each with inputs that it takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "shared"))

from turn_key import settled

BATCH = 32
ENGINE = "fbgemm"
"""What their own annotations are made for; ours are those of the call."""


class Case(NamedTuple):
    """A network of torch's tests.

    Attributes:
        make: builds it.
        inputs: of one call, drawn at random.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]

    def build(self, seed: int) -> nn.Module:
        """The network as if it had been trained on its data: BatchNorm knows its statistics. In eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.make()
            for module in network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.uniform_(module.bias, -0.5, 0.5)
            return settled(network, self.data())

    def data(self) -> tuple[Any, ...]:
        """Its inputs, the same every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return self.inputs()


def batch(*shapes: tuple[int, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """A batch of normal numbers for each shape."""
    return whole(*[(BATCH, *shape) for shape in shapes])


def whole(*shapes: tuple[int, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """Normal numbers where the first size is no batch."""
    return lambda: tuple(torch.randn(shape) for shape in shapes)


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 10, shape)


def bags(*, has_last: bool = False) -> tuple[Tensor, Tensor]:
    """Indices of four words a bag, and where the bags begin."""
    return tokens(4 * BATCH), torch.arange(0, 4 * BATCH + has_last, 4)


def cases() -> dict[str, Case]:
    """Every network whose inputs are known, by its name.

    Raises:
        ImportError: this torch does not bring its tests, or expecttest, which they need, is not installed.
    """
    from torch.testing._internal import common_quantization as tests

    return {**_plain(tests), **_recurrent(tests), **_annotated(tests), **_of_embeddings(tests), **_helpers(tests)}


def _all(tests: Any, names: str, inputs: Callable[[], tuple[Any, ...]], *given: Any) -> dict[str, Case]:
    return {name: Case(lambda name=name: getattr(tests, name)(*given), inputs) for name in names.split()}


def _plain(tests: Any) -> dict[str, Case]:
    rows = """SingleLayerLinearModel AnnotatedSingleLayerLinearModel SingleLayerLinearDynamicModel LinearAddModel
        TwoLayerLinearModel LinearModelWithSubmodule AnnotatedTwoLayerLinearModel LinearReluModel LinearReluLinearModel
        LinearReluAddModel LinearBnLeakyReluModel LinearTanhModel NestedModel AnnotatedSubNestedModel
        AnnotatedCustomConfigNestedModel QuantSubModel InnerModule FunctionalLinear SingleLayerFunctionalLinearModel
        TwoLayerFunctionalLinearModel FunctionalLinearAddModel FunctionalLinearReluModel FunctionalLinearReluLinearModel
        SkipQuantModel QuantStubModel ManualLinearDynamicQATModel ActivationsTestModel NormalizationTestModel"""
    images = """ConvModel ConvTransposeModel ConvBnModel AnnotatedConvBnModel ConvBnReLUModel TwoLayerConvModel
        ConvReluModel ConvReluConvModel ConvReluAddModel FunctionalConv2d SingleLayerFunctionalConvModel
        TwoLayerFunctionalConvModel FunctionalConvReluModel FunctionalConvReluConvModel ConvBNReLU"""
    larger = "ModelWithSequentialFusion ModelForFusionWithBias ModelMultipleOps"
    return {
        **_all(tests, rows, batch((5,))),
        **_all(tests, "LinearBnLeakyReluModel", batch((5,))),
        "LinearBnLeakyReluModel(with_bn=False)": Case(lambda: tests.LinearBnLeakyReluModel(False), batch((5,))),
        **_all(tests, images, batch((3, 5, 5))),
        **_all(tests, larger, batch((3, 10, 10))),
        **_all(tests, "SubModelForFusion SubModelWithoutFusion", batch((2, 4, 4))),
        **_all(tests, "ManualConvLinearQATModel ManualConvLinearSymmQATModel", batch((3, 10, 10))),
        **_all(tests, "ModelForLinearBNFusion", batch((20,))),
        **_all(tests, "ModelForConvTransposeBNFusion", batch((3, 8))),
        **_all(tests, "ModelWithFunctionals", batch((5,))),
        **_all(tests, "ResNetBase", batch((3, 8, 8))),
        **_all(tests, "ModelMultipleOpsNoAvgPool", batch((3, 16, 16))),
        **_sums(tests),
    }


def _sums(tests: Any) -> dict[str, Case]:
    ways: list[dict[str, bool]] = [
        {name: name not in off for name in ("with_bn", "with_relu", "left_conv", "two_conv", "use_torch_add")}
        for off in (
            (),
            ("with_bn",),
            ("with_relu",),
            ("use_torch_add",),
            ("two_conv",),
            ("two_conv", "left_conv"),
            ("two_conv", "use_torch_add", "with_relu"),
            ("two_conv", "left_conv", "with_bn", "with_relu"),
        )
    ]
    return {
        f"ConvBnAddReluModel({_said(way)})": Case(
            lambda way=way: tests.ConvBnAddReluModel(**way), batch((5, 3, 3), (5, 2, 2))
        )
        for way in ways
    }


def _said(way: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in way.items() if value is not True)


def _recurrent(tests: Any) -> dict[str, Case]:
    words = whole((5, BATCH, 2))
    cells = {
        f"RNNCellDynamicModel({kind})": Case(lambda kind=kind: tests.RNNCellDynamicModel(kind), batch((2,)))
        for kind in ("GRUCell", "LSTMCell", "RNNReLU", "RNNTanh")
    }

    def with_hidden() -> tuple[Any, ...]:
        return torch.randn(5, BATCH, 2), (torch.randn(1, BATCH, 2), torch.randn(1, BATCH, 2))

    return {
        "RNNDynamicModel(GRU)": Case(lambda: tests.RNNDynamicModel("GRU"), words),
        "RNNDynamicModel(LSTM)": Case(lambda: tests.RNNDynamicModel("LSTM"), words),
        "LSTMwithHiddenDynamicModel": Case(tests.LSTMwithHiddenDynamicModel, with_hidden),
        **cells,
    }


def _annotated(tests: Any) -> dict[str, Case]:
    rows = "AnnotatedNestedModel AnnotatedSkipQuantModel ManualLinearQATModel ManualDropoutQATModel"
    images = "AnnotatedConvModel AnnotatedConvTransposeModel AnnotatedConvBnReLUModel"
    qconfig = torch.ao.quantization.get_default_qconfig(ENGINE)
    return {
        **_all(tests, rows, batch((5,)), ENGINE),
        **_all(tests, images, batch((3, 5, 5)), ENGINE),
        **_all(tests, "ModelForFusion", batch((3, 1, 19)), qconfig),
    }


def _of_embeddings(tests: Any) -> dict[str, Case]:
    def weighted() -> tuple[Tensor, ...]:
        return (*bags(has_last=True), torch.rand(4 * BATCH))

    def with_rows() -> tuple[Tensor, ...]:
        return (*bags(), torch.randn(BATCH, 4))

    return {
        **_all(
            tests, "ManualEmbeddingBagLinear DeFusedEmbeddingBagLinear EmbeddingModule", lambda: (tokens(BATCH, 4),)
        ),
        **_all(tests, "EmbeddingBagModule", weighted),
        **_all(tests, "EmbeddingWithStaticLinear SparseNNModel", with_rows),
        "EmbBagWrapper": Case(lambda: tests.EmbBagWrapper(10, 5), bags),
        "DenseTopMLP": Case(lambda: tests.DenseTopMLP(4, 2, 5, 2, 2), batch((5,), (4,))),
    }


def _helpers(tests: Any) -> dict[str, Case]:
    helpers = tests.TestHelperModules
    image = batch((3, 5, 5))
    images = """Conv2dPropAnnotaton Conv2dWithObsSharingOps Conv2dWithTwoLinearPermute ConvLinearWPermute
        ConvWithAdaptiveAvgPool2d ConvBnReLU2dAndLinearReLU"""
    four = batch((3, 5, 5), (3, 5, 5), (6, 3, 3), (6, 3, 3))
    found = {
        **_all(helpers, images, image),
        **_all(helpers, "Conv2dWithTwoLinear", whole((2, 3, 4, 4))),
        **_all(helpers, "TwoLinearModule", batch((8,))),
        **_all(helpers, "ConvMaxPool2d", batch((2, 4, 4))),
        **_all(helpers, "Conv2dThenConv1d", whole((1, 3, 5, 5))),
        **_all(helpers, "Conv2dWithCat", batch((3, 5, 5), (3, 5, 5))),
        **_all(helpers, "Conv2dWithTwoCat", four),
        **_all(helpers, "Conv2dWithSplit", batch((3, 16, 16))),
        **_all(helpers, "ThreeAdd", batch((5,), (5,), (5,), (5,))),
        **_all(helpers, "AddInplaceAdd MulInplaceMul", batch((5,), (5,))),
        **_all(helpers, "AddMulScalar LinearReluModel", batch((5,))),
        **_all(helpers, "EmbeddingModule", lambda: (tokens(BATCH, 4),)),
        **_all(helpers, "EmbeddingConvLinearModule", lambda: (tokens(BATCH, 5),)),
        **_all(helpers, "GroupwiseConv2d", batch((4, 10, 10))),
        "ControlFlow": Case(helpers.ControlFlow, lambda: helpers.ControlFlow().example_inputs()),
    }
    for dim in (1, 2):
        for has_relu in (False, True):
            for more in ({}, {"bias": False}, {"bn": False}):
                shape = batch((3, *[6] * dim))
                way = f"(relu={has_relu}, dim={dim}{''.join(f', {name}=False' for name in more)})"
                for kind in ("ConvWithBNRelu", "ConvTWithBNRelu"):
                    found[kind + way] = Case(
                        lambda kind=kind, has_relu=has_relu, dim=dim, more=more: getattr(helpers, kind)(
                            has_relu, dim, **more
                        ),
                        shape,
                    )
    return {f"TestHelperModules.{name}": case for name, case in found.items()}
