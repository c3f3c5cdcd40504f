"""What networks give besides tensors: dataclasses, objects, mappings and tuples of any class."""

import re
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from problems import prefix_evaluator
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore._trees import map_tensors, structure, tensors_of
from qexplore.errors import TraceError


@dataclass
class Output:
    logits: Tensor
    note: str = "kept"


@dataclass(frozen=True)
class Frozen:
    logits: Tensor


class Ordered(OrderedDict):  # type: ignore[type-arg]
    @property
    def logits(self) -> Tensor:
        return self["logits"]


class Mapped(UserDict):  # type: ignore[type-arg]
    @property
    def logits(self) -> Tensor:
        return self.data["logits"]


class Slotted:
    __slots__ = ("logits",)

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Tuple(namedtuple("Tuple", "logits")):
    pass


KINDS = {
    "dataclass": Output,
    "frozen dataclass": Frozen,
    "ordered mapping": lambda logits: Ordered(logits=logits),
    "mapping": lambda logits: Mapped(logits=logits),
    "object": lambda logits: SimpleNamespace(logits=logits),
    "object with slots": Slotted,
    "class of a named tuple": Tuple,
    "nested": lambda logits: SimpleNamespace(logits=logits, more=[Output(logits * 2), {"third": Frozen(logits * 3)}]),
}


class Network(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.body, self.relu, self.head, self.make = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.head(self.relu(self.body(x))))


def loader() -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    return [(part, part.argmax(1) % 3) for part in x.split(16)]


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_tensors_in_an_output_of_any_kind_are_quantized_and_scored_and_its_class_is_kept(make: Any) -> None:
    torch.manual_seed(0)
    network = Network(make).eval().requires_grad_(False)
    expected = [network(x).logits for x, _ in loader()]
    model = qx.QuantizedActivationsModel(network, predicates.by_name("", "relu"), outputs="all")
    model.calibrate(loader(), method="percentile", percentile=50.0)
    assert list(model.activation_fake_quantizers) == ["input", "output", "relu"]
    most = max(float(one.abs().max()) for one in tensors_of([network(x) for x, _ in loader()]))
    assert float(model.activation_fake_quantizers["output"].amax) >= most * 0.99  # an output is not clipped
    model.num_bits = [0, 3, 0]
    x = loader()[0][0]
    assert type(model(x)) is type(make(x))
    assert structure(model(x)) == structure(make(x))
    assert len(model(x).logits.unique()) <= 8
    assert not torch.equal(model(x).logits, expected[0])

    metric = qx.Metric(lambda output, target: output.logits[range(len(target)), target], name="logit")
    fast = prefix_evaluator(model, loader(), metric, required=True)
    assert fast.direct.float_evaluation.score == pytest.approx(
        float(torch.cat([one[range(16), y] for one, (_, y) in zip(expected, loader(), strict=True)]).mean()), rel=1e-5
    )
    candidates = np.array([[8, 8, 8], [0, 2, 0], [3, 0, 2]])
    scores = [one.score for one in fast.direct.evaluate(candidates)]
    assert len(set(scores)) == 3
    assert [one.score for one in fast.evaluate(candidates)] == pytest.approx(scores, rel=1e-5)


def test_what_holds_itself_and_what_has_no_tensors_is_left_alone() -> None:
    ring = SimpleNamespace(x=torch.ones(1))
    ring.itself = ring
    doubled = map_tensors(lambda tensor: tensor * 2, ring)
    assert float(doubled.x) == 2.0
    assert doubled.itself is ring
    settings = SimpleNamespace(name="a", sizes=torch.Size([2]))
    assert map_tensors(lambda tensor: tensor * 2, settings) is settings


class TestWordsOfNetworksThatCannotBeTakenApart:
    def description(self, network: nn.Module) -> str:
        model = qx.QuantizedModel(network.eval(), None, predicates.weighted)
        model.calibrate(loader())
        return prefix_evaluator(model, loader(), qx.top1_accuracy).description

    def test_name_the_file_and_the_line(self) -> None:
        class Mixed(nn.Sequential):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x * torch.from_numpy(np.sin(x.numpy())))  # this line

        said = self.description(Mixed(nn.Linear(4, 3)))
        assert re.search(r"Mixed is not: .* \(test_containers.py, line \d+: return super.*# this line\)", said)

    def test_offer_a_wrapper_for_arguments_without_names(self) -> None:
        class Variadic(nn.Sequential):
            def forward(self, *args: Tensor) -> Tensor:
                return super().forward(args[0])

        assert "wrap it in a module whose forward names its arguments, such as" in self.description(
            Variadic(nn.Linear(4, 3))
        )

    def test_offer_an_export_without_the_cache(self, tmp_path: Any) -> None:
        class DynamicCache:
            def __init__(self, keys: Tensor) -> None:
                self.keys = keys

        class Cached(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Any:
                return self.fc(x), DynamicCache(x)

        pytest.importorskip("onnxscript")
        model = qx.QuantizedModel(Cached(), None, predicates.weighted)
        model.calibrate(weight_method="max")
        with pytest.raises(TraceError, match="gives a cache of keys.*use_cache = False"):
            qx.export_onnx(model, tmp_path / "model.onnx", torch.rand(4, 4))
