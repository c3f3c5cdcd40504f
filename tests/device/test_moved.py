"""Networks that move after they were wrapped, calibrated, posed or searched, and networks on several devices."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import digits
from problems import search_loader, tiny_model, tiny_network, tiny_problem, weighted_model
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import EvaluationError, MetricError, ModelError

CPU = torch.device("cpu")
OTHER = "pretended:1"  # is no device before the fixture has made it one
IMAGES = digits().search.x[:40]
STAGES = ("wrapped", "calibrated", "posed", "searched")


def by_parts(model: qx.QuantizedModel, device: Any) -> None:
    for child in model.model.children():
        child.to(device)


WAYS: dict[str, Callable[[qx.QuantizedModel, Any], object]] = {
    "the model": lambda model, device: model.to(device),
    "the network alone": lambda model, device: model.model.to(device),
    "layer by layer": by_parts,
}
FIRST_WAY = WAYS["the model"]


def explored(problem: qx.LayerwiseQuantizationProblem) -> tuple[Any, ...]:
    # Divergences differ in their last bits between devices, and with them who stands of two that diverge alike.
    front = qx.explore(problem, max_evaluations=100, seed=3, judge="accuracy", progress=False).front
    return front.num_bits.tolist(), front.accuracy.tolist(), front.costs.tolist(), front.verified


def staged(kind: Any, moves: dict[str, Any], way: Callable[..., object] = FIRST_WAY) -> tuple[Any, str]:
    """The last front of a model that is moved behind some stages, and how candidates were evaluated."""
    model = kind()

    def stage(name: str) -> None:
        if name in moves:
            way(model, moves[name])

    stage("wrapped")
    model.calibrate([digits().calibration.x.clone()], method="mse")
    stage("calibrated")
    # Few enough to be measured all: how many samples a stopped one takes is the device's affair.
    problem = tiny_problem(model=model, lower=3 if len(model.points) > 3 else 2)
    stage("posed")
    explored(problem)
    stage("searched")
    return explored(problem), problem.describe().engine


def activations() -> qx.QuantizedModel:
    return qx.QuantizedActivationsModel(tiny_network(), predicates.by_type(nn.ReLU))


def weights_too() -> qx.QuantizedModel:
    return qx.QuantizedModel(tiny_network(), predicates.by_type(nn.ReLU), predicates.weighted)


@pytest.fixture(scope="module")
def stayed() -> dict[Any, Any]:
    return {kind: staged(kind, {}) for kind in (activations, weights_too)}


@pytest.mark.parametrize(
    "way", [pytest.param(way, id=name, marks=[pytest.mark.slow] * (way is not FIRST_WAY)) for name, way in WAYS.items()]
)
@pytest.mark.parametrize("when", STAGES)
def test_a_network_that_moves_gives_the_front_of_one_that_stays(
    accelerator: torch.device, stayed: dict[Any, Any], when: str, way: Any
) -> None:
    kind = activations if way is FIRST_WAY else weights_too
    front, engine = staged(kind, {when: accelerator}, way)
    assert front == stayed[kind][0]
    assert engine.startswith("prefix: ")


def test_a_network_that_moves_on_and_back_gives_the_front_of_one_that_stays(
    accelerator: torch.device, stayed: dict[Any, Any]
) -> None:
    journey = dict(zip(STAGES, (accelerator, OTHER, CPU, accelerator), strict=True))
    assert staged(weights_too, journey, WAYS["the network alone"])[0] == stayed[weights_too][0]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_network_itself_runs_quantized_where_it_was_moved(accelerator: torch.device, way: Any) -> None:
    model = weighted_model()
    model.num_bits = [4] * len(model.points)
    expected = model(IMAGES)
    way(model, accelerator)
    for run in (model.model, model):
        assert torch.equal(run(IMAGES.to(accelerator)).cpu(), expected)
    lies_on = {tensor.device for quantizer in model.fake_quantizers.values() for tensor in quantizer.buffers()}
    assert lies_on == {accelerator}
    way(model, CPU)
    assert torch.equal(model(IMAGES), expected)


def test_a_detached_network_and_a_copy_move_on_their_own(accelerator: torch.device) -> None:
    model = weighted_model()
    model.num_bits = [3] * len(model.points)
    expected = model(IMAGES)
    copied = copy.deepcopy(model)
    copied.model.to(accelerator)
    assert torch.equal(copied(IMAGES.to(accelerator)).cpu(), expected)
    assert torch.equal(model(IMAGES), expected)
    plain = model.to(accelerator).detach()
    assert torch.equal(plain(IMAGES.to(accelerator)).cpu(), tiny_network()(IMAGES))
    assert torch.equal(plain.to(CPU)(IMAGES), tiny_network()(IMAGES))


def test_a_loaded_problem_whose_model_moves_gives_the_front_of_one_that_stays(accelerator: torch.device) -> None:
    problem = tiny_problem(loader=iter(search_loader(100)))
    expected = explored(problem)
    loaded = pickle.loads(pickle.dumps(problem))
    loaded.model.to(accelerator)
    assert explored(loaded) == expected
    again = pickle.loads(pickle.dumps(loaded))
    assert explored(again) == expected
    again.model.model.to(OTHER)
    assert explored(again) == expected


def test_what_was_measured_elsewhere_is_measured_again(accelerator: torch.device) -> None:
    problem = tiny_problem()
    rows = problem.space.uniform()
    list(problem.measure(rows))
    assert len(problem.evaluations) == len(rows)
    problem.model.to(accelerator)
    assert problem.evaluations == ()
    list(problem.measure(rows))
    assert len(problem.evaluations) == len(rows)
    problem.model(IMAGES.to(accelerator))
    assert len(problem.evaluations) == len(rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("whole", [True, False], ids=["the model", "the network alone"])
def test_a_network_that_is_cast_is_measured_anew_in_its_dtype_and_exact_again_when_cast_back(
    dtype: torch.dtype, whole: bool
) -> None:
    problem = tiny_problem(engine="direct", loader=iter(search_loader(100)))
    rows = problem.space.uniform()
    expected = [one.scores.tolist() for one in problem.measure(rows)]  # type: ignore[union-attr]
    weights = copy.deepcopy(problem.model.model.state_dict())
    (problem.model if whole else problem.model.model).to(dtype)
    cast = [one.scores.tolist() for one in problem.measure(rows)]  # type: ignore[union-attr]
    posed_so = tiny_problem(model=problem.model, engine="direct")
    assert cast == [one.scores.tolist() for one in posed_so.measure(rows)]  # type: ignore[union-attr]
    problem.model.model.float().load_state_dict(weights)
    assert [one.scores.tolist() for one in problem.measure(rows)] == expected  # type: ignore[union-attr]


# -------------------------------------------------------------------------------------------------------------- data


@pytest.fixture(scope="module")
def on_cpu() -> Any:
    return explored(tiny_problem(loader=search_loader(100)))


@pytest.mark.parametrize("of_inputs", ["cpu", "pretended:0", OTHER])
@pytest.mark.parametrize("of_targets", ["cpu", "pretended:0", pytest.param(OTHER, marks=pytest.mark.slow)])
def test_batches_may_lie_anywhere(accelerator: torch.device, on_cpu: Any, of_inputs: str, of_targets: str) -> None:
    loader = [(x.to(of_inputs), y.to(of_targets)) for x, y in search_loader(100)]
    model = tiny_model()
    model.to(accelerator)
    model.calibrate([digits().calibration.x.to(of_inputs)])
    problem = tiny_problem(model=model, loader=loader)
    assert explored(problem) == on_cpu
    model.to(CPU)
    assert explored(problem) == on_cpu


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device has room for 100 of 400 samples, the CPU for all."""
    monkeypatch.setattr(
        "qexplore.evaluation.batches.free_memory", lambda device: 2**30 if device.type == "cpu" else 4 * 27_000
    )


@pytest.mark.parametrize("engine", ["auto", "direct"])
@pytest.mark.parametrize("size", [50, 400])
def test_a_set_that_the_device_has_no_room_for_is_held_on_the_cpu(
    accelerator: torch.device, on_cpu: Any, little_room: None, engine: str, size: int
) -> None:
    model = tiny_model()
    model.to(accelerator)
    problem = tiny_problem(model=model, loader=iter(search_loader(size)), engine=engine, budget_bytes=2**20)
    data = problem.direct.data
    assert data is not None and data.is_held and not data.is_ready
    assert explored(problem) == on_cpu
    described = problem.evaluator.description
    assert described.startswith("prefix: " if engine == "auto" else "direct: ")
    assert "batches moved to pretended:0 one by one, which has no room for all" in described
    model.to(CPU)
    assert problem.direct.data.is_ready  # type: ignore[union-attr]
    assert "one by one" not in problem.evaluator.description


def test_a_network_whose_output_lies_elsewhere_is_scored(accelerator: torch.device) -> None:
    class OnCpu(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_network()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).to("cpu")

    expected = explored(tiny_problem(model=tiny_model(OnCpu())))
    assert explored(tiny_problem(model=tiny_model(OnCpu().to(accelerator)))) == expected


def test_a_metric_of_the_whole_set_that_leaves_batches_elsewhere_is_told_so(accelerator: torch.device) -> None:
    @qx.whole_set
    def accuracy(model: Any, loader: Any) -> float:
        return float(torch.cat([(model(x).argmax(1).cpu() == y).float() for x, y in loader]).mean())

    model = tiny_model()
    model.to(accelerator)
    with pytest.raises(
        MetricError, match="the network lies on pretended:0, and .* moves batches there itself"
    ) as caught:
        tiny_problem(accuracy, model=model)
    assert "unpack=" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- several devices


class Pipeline(nn.Module):
    """The tiny network over two devices; ``late`` is registered first, and runs last."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__()
        whole = tiny_network()
        self.late = nn.Sequential(whole.relu2, whole.fc3).to(second)
        self.early = nn.Sequential(nn.Flatten(), whole.fc1, whole.relu1, whole.fc2).to(first)

    def forward(self, x: Tensor) -> Tensor:
        return self.late(self.early(x).to(self.late[1].bias.device))


class SharedPipeline(Pipeline):
    """One ReLU runs on both devices."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__(first, second)
        self.early[2] = self.late[0]


class Aligned(nn.Module):
    """Whoever loaded it has put hooks on its parts that bring tensors to them."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__()
        self.parts = nn.Sequential(*Pipeline(first, second).children())[::-1]
        for part in self.parts:
            part.register_forward_pre_hook(lambda one, args: (args[0].to(next(one.parameters()).device),))

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)


@pytest.mark.parametrize(
    ("kind", "weights", "method"),
    [
        pytest.param(Pipeline, None, "max", marks=pytest.mark.slow),
        pytest.param(Pipeline, predicates.weighted, "auto", marks=pytest.mark.slow),
        pytest.param(SharedPipeline, None, "auto", marks=pytest.mark.slow),
        (Aligned, predicates.weighted, "max"),
    ],
)
def test_a_network_on_two_devices_is_searched_directly_and_right(
    accelerator: torch.device, kind: Any, weights: Any, method: str
) -> None:
    def problem(*devices: Any) -> qx.LayerwiseQuantizationProblem:
        model = qx.QuantizedModel(kind(*devices), predicates.by_type(nn.ReLU), weights)
        model.calibrate([digits().calibration.x.clone()], method=method)
        return tiny_problem(model=model, loader=search_loader(200), lower=3 if weights else 2)

    spread = problem(accelerator, OTHER)
    lies = {name: quantizer.amax.device for name, quantizer in spread.model.fake_quantizers.items()}  # type: ignore
    assert lies["input"] == accelerator
    assert lies[list(spread.model.activation_fake_quantizers)[-1]] in (accelerator, torch.device(OTHER))
    devices = ", ".join(map(str, dict.fromkeys(one.device for one in spread.model.model.parameters())))
    assert spread.evaluator.description == f"direct: the network lies on several devices ({devices})"
    assert explored(spread) == explored(problem(CPU, CPU))
    spread.model.model.to(accelerator)
    assert "several devices" not in spread.evaluator.description
    assert explored(spread) == explored(problem(CPU, CPU))


def test_each_quantizer_of_a_pipeline_lies_where_its_tensor_lies(accelerator: torch.device) -> None:
    model = qx.QuantizedModel(Pipeline(accelerator, OTHER), predicates.by_type(nn.ReLU), predicates.weighted)
    model.calibrate([digits().calibration.x.clone()], method="mse")
    model.describe(IMAGES)
    expected = dict.fromkeys(("late.1", "late.0"), torch.device(OTHER))
    for name, quantizer in model.fake_quantizers.items():
        assert {tensor.device for tensor in quantizer.buffers()} == {
            expected.get(name.removesuffix(".weight"), accelerator)
        }


def test_a_network_that_moves_no_tensors_between_its_devices_is_told_that(accelerator: torch.device) -> None:
    class Broken(Pipeline):
        def forward(self, x: Tensor) -> Tensor:
            return self.late(self.early(x))

    model = tiny_model(Broken(CPU, CPU))
    model.model.early.to(accelerator)  # type: ignore[union-attr]
    with pytest.raises(EvaluationError, match=r"several devices \(cpu, pretended:0\): its forward, .* bring") as caught:
        tiny_problem(model=model)
    assert "unpack=" not in str(caught.value)


def test_noise_of_a_network_on_two_devices_is_the_same_each_time_and_leaves_the_users_random_state_alone(
    accelerator: torch.device,
) -> None:
    class Noisy(Pipeline):
        def forward(self, x: Tensor) -> Tensor:
            x = self.early(x)
            x = (x + torch.rand_like(x)).to(OTHER)
            return self.late(x + torch.rand_like(x))

    problem = tiny_problem(model=tiny_model(Noisy(accelerator, OTHER)))

    def drawn() -> list[Any]:
        states = [torch.get_rng_state(), *map(torch.pretended.get_rng_state, (accelerator, OTHER))]  # type: ignore
        return [state.tolist() for state in states]

    before = drawn()
    first = [one.score for one in problem.measure_directly(problem.space.uniform())]
    assert [one.score for one in problem.measure_directly(problem.space.uniform())] == first
    assert drawn() == before


def test_inputs_on_one_of_several_devices_stay_and_others_go_where_the_forward_begins(
    accelerator: torch.device,
) -> None:
    from qexplore.model import Placement

    placement = Placement.of(Pipeline(accelerator, OTHER))
    assert placement.device == torch.device(
        OTHER
    )  # of the first parameter, which is not the one that the forward comes to first
    assert placement.move_inputs(IMAGES).device == accelerator
    assert placement.move_inputs({"x": IMAGES.to(OTHER)})["x"].device == torch.device(OTHER)
    assert placement.copy_inputs((IMAGES,))[0].device == accelerator


def test_a_network_without_numbers_is_refused_by_name(accelerator: torch.device) -> None:
    with pytest.raises(ModelError, match=r"'fc1\.weight' is on the meta device"):
        tiny_model(tiny_network().to("meta"))
    problem = tiny_problem()
    problem.model.model.to("meta")
    with pytest.raises(ModelError, match=r"'fc1\.weight' is on the meta device"):
        list(problem.measure(problem.space.uniform()))
    network = problem.model.detach()  # as the sentence says
    network.to_empty(device="cpu").load_state_dict(tiny_network().state_dict())
    assert network(IMAGES).shape == (len(IMAGES), 10)
