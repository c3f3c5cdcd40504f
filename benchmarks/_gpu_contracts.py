"""What must hold on a device: counts beside the plain recipe's, and every feature once."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _gpu_rows import Check, Clock, Fault, checked, full_float32, waits
from _gpu_subjects import Subject, patterns
from _workloads import correct, networks
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore.search import Generations, LayerwiseQuantizationProblem, SearchSettings, reference_point

__all__ = ["FEATURES", "counts_of", "counts_row", "feature_rows", "posed", "random_candidates", "recorded", "stage"]

LOW, HIGH = 2, 8
METHODS = ("max", "mse", "percentile", "entropy", "auto")


def posed(subject: Subject, model: Any = None, **options: Any) -> LayerwiseQuantizationProblem:
    """The usual problem on ``subject``."""
    model = subject.model() if model is None else model
    limits = {"num_bits_lower_limit": LOW, "num_bits_upper_limit": HIGH}
    return LayerwiseQuantizationProblem(model, subject.batches, qx.top1_accuracy, **(limits | options))


def random_candidates(count: int, num_points: int, seed: int = 0) -> np.ndarray:
    """Every width equally likely."""
    return np.random.default_rng(seed).integers(LOW, HIGH + 1, size=(count, num_points))


def recorded(
    problem: LayerwiseQuantizationProblem, population: int, generations: int, clock: Clock | None = None
) -> list[np.ndarray]:
    """The candidates of a run of NSGA-II from a random start, a generation each; fewer where time runs out."""
    run = Generations(problem, SearchSettings(1, "nsga2-plain", population), reference_point(problem, ()))
    trace: list[np.ndarray] = []
    while len(trace) < generations and (generation := run.ask()) is not None:
        if trace and clock is not None and clock.left < 0:
            break
        trace.append(generation.candidates)
        run.tell(list(problem.measure(generation.candidates)))
    return trace


def counts_of(evaluations: Iterator[Any] | list[Any], num_samples: int) -> np.ndarray:
    """Correct predictions of complete evaluations."""
    evaluations = list(evaluations)
    missing = [evaluation for evaluation in evaluations if not evaluation.is_complete]
    if missing:
        raise Fault(f"{len(missing)} candidates have no score: {missing[0].reason}")
    return np.array([round(evaluation.score * num_samples) for evaluation in evaluations])


def counts_row(subject: Subject, problem: LayerwiseQuantizationProblem, trace: list[np.ndarray]) -> Check:
    """Counts of the engine and of the direct evaluator beside the plain recipe's, at 40 recorded and 10 random."""
    everything = np.concatenate(trace)
    chosen = everything[np.linspace(0, len(everything) - 1, min(40, len(everything))).astype(int)]
    candidates = np.concatenate([chosen, random_candidates(10, problem.n_var, seed=9)])
    total, script = problem.num_samples, subject.script(problem.model)
    with full_float32():
        plain = np.array([script.correct(candidate, subject.batches) for candidate in candidates])
    ours = counts_of(problem.evaluator.evaluate(candidates), total)
    direct = counts_of(problem.direct.evaluate(candidates), total)
    by_engine, by_direct = np.abs(ours - plain).max(), np.abs(direct - plain).max()
    allowed = -(-total // 1024)
    figure = f"engine {by_engine}, direct {by_direct}, of {total}; {len(chosen)} recorded and 10 random candidates"
    aim = f"within {allowed} of {total}"
    return Check("counts beside the plain recipe's", figure, aim, bool(max(by_engine, by_direct) <= allowed))


# -------------------------------------------------------------------------------------------------------- features


def stage(device: torch.device, num_images: int = 128) -> Subject:
    """A small network with BatchNorm, a few steps trained on the CPU, for features."""
    torch.manual_seed(1)
    network = networks.digits_network()
    images, labels = patterns(1024, 8, seed=7)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for x, y in zip(images.split(64), labels.split(64), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
    inputs, targets = patterns(num_images, 8, seed=8)
    chosen = predicates.by_type(nn.ReLU)
    return Subject("digits", network.eval(), chosen, inputs, targets, 64, f"{num_images} of 8 x 8").to(device)


def feature_rows(subject: Subject, clock: Clock, report: list[str]) -> Iterator[Check]:
    """Every feature once; one that fails is a row."""
    for name, work in FEATURES.items():
        if clock.left < 0:
            yield Check(name, "no time left", "", None)
        else:
            yield checked(name, lambda work=work: work(subject), report=report)


def _calibrated_by(method: str) -> Callable[[Subject], str]:
    def calibrated(subject: Subject) -> str:
        model = subject.model()
        model.calibrate(subject.batches[:2], method=method)
        return _beside_cpu(subject, model, lambda other: other.calibrate(_on_cpu(subject).batches[:2], method=method))

    return calibrated


def _asymmetric(subject: Subject) -> str:
    wrapping = {"unsigned": "auto", "asymmetric": "auto"}
    return _beside_cpu(subject, subject.model(**wrapping), lambda other: None, **wrapping)


def _on_cpu(subject: Subject) -> Subject:
    return subject.to(torch.device("cpu"))


def _beside_cpu(subject: Subject, model: Any, calibrate: Callable[[Any], Any], **wrapping: Any) -> str:
    """The largest difference of a range from what the CPU finds, which must be in the last digits."""
    other = _on_cpu(subject).model(**wrapping)
    calibrate(other)
    worst = 0.0
    for name, quantizer in model.fake_quantizers.items():
        ours, theirs = quantizer.amax.detach().cpu(), other.fake_quantizers[name].amax.detach()
        worst = max(worst, float(((ours - theirs).abs() / theirs.abs().clamp_min(1e-12)).max()))
    if worst > 0.05:
        raise Fault(f"a range differs by {100 * worst:.2g} % from the CPU's")
    return f"ranges within {100 * worst:.2g} % of the CPU's"


def _engages(subject: Subject) -> str:
    return _engine_of(posed(subject))


def _engine_of(problem: LayerwiseQuantizationProblem) -> str:
    description = problem.evaluator.description
    if not description.startswith("prefix"):
        raise Fault(description)
    return description


def _differences(problem: LayerwiseQuantizationProblem, allowed: float = 0.01) -> str:
    """The engine beside the direct evaluator at ten random candidates."""
    candidates, total = random_candidates(10, problem.n_var, seed=4), problem.num_samples
    ours = counts_of(problem.evaluator.evaluate(candidates), total)
    direct = counts_of(problem.direct.evaluate(candidates), total)
    worst = int(np.abs(ours - direct).max())
    if worst > max(1, allowed * total):
        raise Fault(f"engine and direct evaluator differ by {worst} of {total}; {problem.evaluator.description}")
    return f"engine and direct evaluator within {worst} of {total}; {problem.evaluator.description}"


def _moved(subject: Subject) -> str:
    at_home = _on_cpu(subject)
    model = at_home.model()
    problem = posed(at_home, model)
    candidates = random_candidates(5, problem.n_var, seed=2)
    before = counts_of(problem.evaluator.evaluate(candidates), problem.num_samples)
    model.to(subject.device)
    after = counts_of(problem.evaluator.evaluate(candidates), problem.num_samples)
    worst = int(np.abs(before - after).max())
    if worst > 2:
        raise Fault(f"counts changed by {worst} of {problem.num_samples}")
    return f"counts within {worst} of {problem.num_samples} of the CPU's; {problem.evaluator.description}"


def _moved_inside(subject: Subject) -> str:
    network = copy.deepcopy(_on_cpu(subject).network)
    model = qx.QuantizedActivationsModel(network, subject.predicate)
    network.to(subject.device)
    model.calibrate(subject.batches[:2])
    return _differences(posed(subject, model))


def _manifest(subject: Subject) -> str:
    model, other = subject.model(), _on_cpu(subject).model()
    model.num_bits = [5] * len(model.points)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "widths.json"
        qx.save_manifest(model, path)
        qx.load_manifest(path).apply(other)
    with torch.no_grad(), full_float32():
        here, there = model.eval()(subject.inputs).cpu(), other.eval()(subject.inputs.cpu())
    difference = (here - there).abs()
    share = 100 * float((difference.amax(1) > 1e-3).float().mean())
    return f"outputs differ by {float(difference.max()):.2g} at most, by more than 0.001 on {share:.1f} % of samples"


def _in(dtype: torch.dtype) -> Callable[[Subject], str]:
    def half(subject: Subject) -> str:
        other = subject.to(subject.device)
        other.network.to(dtype)
        object.__setattr__(other, "inputs", other.inputs.to(dtype))
        return _differences(posed(other))

    return half


class _Mixed(nn.Module):
    """A network under autocast of its own."""

    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network, self.kind = network, kind

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.kind, dtype=torch.bfloat16):
            return self.network(x)


def _autocast(subject: Subject) -> str | Check:
    try:
        torch.autocast(subject.device.type, dtype=torch.bfloat16)
    except AssertionError:  # so says a device without it
        return Check("autocast (bfloat16)", "this device has no autocast", "", None)
    other = subject.to(subject.device)
    object.__setattr__(other, "network", _Mixed(other.network, subject.device.type))
    return _differences(posed(other))


def _fine_tuned_twice(subject: Subject) -> str:
    weights = []
    for _ in range(2):
        model = subject.model()
        options = {"epochs": 1, "seed": 3, "device": subject.device, "metric": qx.top1_accuracy}
        qx.fine_tune(model, [4] * len(model.points), subject.batches, F.cross_entropy, **options)
        weights.append([parameter.detach().cpu() for parameter in model.parameters()])
    worst = max(float((a - b).abs().max()) for a, b in zip(*weights, strict=True))
    if worst:
        raise Fault(f"weights of two runs with one seed differ by up to {worst:.2g}")
    return "two runs with one seed end with equal weights"


class _OnTwo(nn.Module):
    """The first half on one device, the second on another."""

    def __init__(self, network: nn.Sequential, first: torch.device, second: torch.device) -> None:
        super().__init__()
        half = len(network) // 2
        self.begin, self.end = network[:half].to(first), network[half:].to(second)
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.begin(x).to(self.second))


def _several_devices(subject: Subject) -> str | Check:
    kind = subject.device.type
    count = 1 if kind == "cpu" else getattr(torch, kind).device_count()
    if count < 2:
        return Check("a network on two devices", "there is one device here", "", None)
    first, second = torch.device(kind, 0), torch.device(kind, 1)
    network = _OnTwo(copy.deepcopy(subject.network), first, second)
    model = qx.QuantizedActivationsModel(network, subject.predicate, unsigned=False)
    model.calibrate(subject.batches[:2])
    problem = posed(subject, model)
    plain, candidates = subject.model(), random_candidates(3, problem.n_var, seed=5)
    want = counts_of(posed(subject, plain).direct.evaluate(candidates), problem.num_samples)
    got = counts_of(problem.evaluator.evaluate(candidates), problem.num_samples)
    if np.abs(want - got).max() > 1:
        raise Fault(f"counts differ by {np.abs(want - got).max()} from those on one device")
    return f"counts as on one device; {problem.evaluator.description}"


def _waits(subject: Subject) -> str | Check:
    if subject.device.type == "cpu":
        return Check("waits for the device", "there is none to wait for", "", None)
    problem = posed(subject)
    counts_of(problem.evaluator.evaluate(random_candidates(10, problem.n_var, seed=6)), problem.num_samples)
    candidates = random_candidates(20, problem.n_var, seed=7)
    number = waits(lambda: list(problem.evaluator.evaluate(candidates)), subject.device)
    return f"{number} for 20 candidates in full"


def _explored(subject: Subject, seed: int = 1, **options: Any) -> Any:
    problem = posed(subject, min_accuracy=0.3)
    return qx.explore(problem, max_evaluations=30, seed=seed, progress=False, **options)


def _same_front(subject: Subject) -> str:
    state = torch.get_rng_state()
    first, second = _explored(subject).front, _explored(subject).front
    if not (np.array_equal(first.num_bits, second.num_bits) and np.array_equal(first.accuracy, second.accuracy)):
        raise Fault("two searches with one seed give different fronts")
    if not torch.equal(state, torch.get_rng_state()):
        raise Fault("a search changed torch's random state")
    if not first.verified:
        raise Fault("the front is not verified")
    with tempfile.TemporaryDirectory() as folder:
        first.save(Path(folder) / "front.json")
        loaded = qx.Front.load(Path(folder) / "front.json")
    if not np.array_equal(loaded.num_bits, first.num_bits):
        raise Fault("the front's file gives another front")
    return f"{len(first)} points, verified, twice the same, and from its file"


def _settings_return(subject: Subject) -> str:
    def settings() -> tuple[Any, ...]:
        return (
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
        )

    before = settings()
    problem = posed(subject)
    counts_of(problem.evaluator.evaluate(random_candidates(2, problem.n_var)), problem.num_samples)
    if settings() != before:
        raise Fault(f"settings of torch were {before} and are {settings()}")
    return "TF32, trials of kernels and determinism as they were"


def _sensitivity(subject: Subject) -> str:
    qx.sensitivity(posed(subject))
    qx.analyze(subject.model(), subject.batches)
    return "sensitivity and analysis"


def _fitted(subject: Subject) -> str:
    point = qx.fit(subject.model(), subject.batches, max_drop=0.05, max_evaluations=20, progress=False)
    return f"one point of {int(point.total_bits)} bits" if hasattr(point, "total_bits") else "one point"


def _exported(subject: Subject) -> str:
    import onnxruntime  # noqa: F401  # says by itself when it is missing

    model = subject.model()
    model.num_bits = [6] * len(model.points)
    with tempfile.TemporaryDirectory() as folder:
        result = qx.export_onnx(model, Path(folder) / "model.onnx", subject.inputs[:2], data=subject.batches[:1])
    return str(result).splitlines()[0].removeprefix(f"{folder}/")


def _weights(subject: Subject) -> str:
    model = qx.QuantizedModel(
        copy.deepcopy(subject.network), activations=subject.predicate, weights=predicates.weighted
    )
    model.calibrate(subject.batches[:2])
    return _differences(posed(subject, model, costs=("total_bits", "model_bytes")))


def _detached(subject: Subject) -> str:
    model = subject.model()
    network = model.detach()
    if correct(network, subject.batches) != correct(subject.network, subject.batches):
        raise Fault("the network that detach gives back counts otherwise")
    return "the float network as it was"


FEATURES: dict[str, Callable[[Subject], str | Check]] = {
    "the engine engages": _engages,
    **{f'calibrate(method="{method}")': _calibrated_by(method) for method in METHODS},
    "asymmetric ranges": _asymmetric,
    "the model moves after the problem is posed": _moved,
    "the network moves after it is wrapped": _moved_inside,
    "a manifest from the device to the CPU, 5 bits": _manifest,
    "float16": _in(torch.float16),
    "bfloat16": _in(torch.bfloat16),
    "autocast (bfloat16)": _autocast,
    "weights and two costs": _weights,
    "sensitivity, analysis": _sensitivity,
    "fit": _fitted,
    "fine_tune twice with one seed": _fine_tuned_twice,
    "explore twice with one seed": _same_front,
    "settings of torch come back": _settings_return,
    "a network on two devices": _several_devices,
    "waits for the device": _waits,
    "ONNX with parity": _exported,
    "detach": _detached,
}
