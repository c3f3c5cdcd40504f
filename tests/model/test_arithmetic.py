"""One arithmetic for what is measured, and the user's settings afterwards."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qexplore as qx
from qexplore import predicates
from qexplore.errors import EvaluationError, ProblemError
from qexplore.evaluation import DirectEvaluator
from qexplore.model import arithmetic, arithmetic_text, measuring, noting, trained_deterministically

CPU = torch.device("cpu")
OURS = ("highest", False, False, True, True, False, "ieee")


def _or_raises(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RuntimeError:  # torch's two ways contradict each other
        return "raises"


def _places() -> tuple[str, ...]:
    read = getattr(torch._C, "_get_fp32_precision_getter", None)
    kinds = ("all", "matmul", "conv", "rnn")
    places = [("generic", "all"), *((backend, kind) for backend in ("cuda", "mkldnn") for kind in kinds)]
    return () if read is None else tuple(read(*place) for place in places)


def flags() -> tuple[Any, ...]:
    """Everything that a user may have set."""
    return (
        _or_raises(torch.get_float32_matmul_precision),
        _or_raises(lambda: torch.backends.cudnn.allow_tf32),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
        "/".join(dict.fromkeys(_places())) or "ieee",
    )


def everything() -> tuple[Any, ...]:
    """The same with all that hangs together, to be found again to the last place."""
    return flags(), _places(), torch.get_deterministic_debug_mode(), len(warnings.filters)


@pytest.fixture
def fast() -> Iterator[None]:
    """A user who has switched on all that is fast, the older way."""
    before = _places()
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = True
    if before:
        torch._C._set_fp32_precision_setter("cuda", "matmul", before[2])
        torch._C._set_fp32_precision_setter("mkldnn", "matmul", before[6])
        torch._C._set_fp32_precision_setter("generic", "all", "none")


class Recording(nn.Module):
    """Notes the flags under which it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        self.seen: list[tuple[Any, ...]] = []
        self.raises = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Recording:
        copied = Recording()
        copied.load_state_dict(self.state_dict())
        copied.seen, copied.training = self.seen, self.training
        memo[id(self)] = copied
        return copied

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(flags())
        if self.raises:
            raise RuntimeError("it stops")
        out: Tensor = self.layers(x)
        return out


def data(seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    pairs = [(torch.randn(16, 4, generator=generator), torch.randint(0, 3, (16,), generator=generator))]
    return pairs * 2


def wrapped(network: nn.Module) -> qx.QuantizedActivationsModel:
    return qx.QuantizedActivationsModel(network, predicates.by_type(nn.ReLU))


def calibrated(network: nn.Module) -> qx.QuantizedActivationsModel:
    model = wrapped(network)
    model.calibrate(data(), progress=False)
    return model


def _explore(model: Any, **options: Any) -> Any:
    problem = qx.LayerwiseQuantizationProblem(model, data(), **options)
    return qx.explore(problem, max_evaluations=12, seed=1, report_loader=data(2), progress=False)


def _corrected(network: nn.Module) -> None:
    model = qx.QuantizedModel(network, activations=predicates.by_type(nn.ReLU), weights=predicates.by_type(nn.Linear))
    model.calibrate(data(), progress=False)
    qx.correct_biases(model, data(), progress=False)


FEATURES: dict[str, Callable[[Any], Any]] = {
    "calibrate": lambda model: model.calibrate(data(), method="mse", progress=False),
    "direct": lambda model: DirectEvaluator(model, data(), qx.top1_accuracy),
    "explore": _explore,
    "explore directly": lambda model: _explore(model, engine="direct"),
    "analyze": lambda model: qx.analyze(model, data(), progress=False),
    "sensitivity": lambda model: qx.sensitivity(qx.LayerwiseQuantizationProblem(model, data()), progress=False),
    "calibrate weights and correct biases": lambda model: _corrected(model.detach()),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_what_measures_has_our_settings_inside_and_the_users_afterwards(fast: None, feature: str) -> None:
    network = Recording()
    model = calibrated(network)
    network.seen.clear()
    before = everything()
    FEATURES[feature](model)
    assert set(network.seen) == {OURS}
    assert everything() == before


def test_settings_come_back_behind_a_network_that_raises(fast: None) -> None:
    network = Recording()
    evaluator = DirectEvaluator(calibrated(network), data(), qx.top1_accuracy)
    before, network.raises = everything(), True
    with pytest.raises(EvaluationError, match="it stops"):
        evaluator.evaluate_float()
    assert everything() == before


def test_settings_come_back_behind_an_interrupted_search(fast: None) -> None:
    problem = qx.LayerwiseQuantizationProblem(calibrated(Recording()), data())
    before = everything()

    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    result = qx.explore(problem, max_evaluations=12, seed=1, callbacks=[interrupt], progress=False)
    assert result.stopped_by == "interrupt"
    assert everything() == before


def test_scores_do_not_depend_on_what_the_user_has_set() -> None:
    torch.manual_seed(3)  # products of this size take other ways under "medium" on a CPU with bfloat16
    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 3))
    batches = [(torch.randn(256, 64), torch.randint(0, 3, (256,)))]
    model = wrapped(network)
    model.calibrate(batches, progress=False)
    evaluator = DirectEvaluator(model, batches, qx.negative_log_likelihood)
    expected = evaluator.float_evaluation.scores
    try:
        torch.set_float32_matmul_precision("medium")
        same = evaluator.evaluate_float().scores
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(same, expected)


WAYS: dict[str, Callable[[], Any]] = {
    "untouched": lambda: None,
    "older": lambda: torch.set_float32_matmul_precision("high"),
    "older convolutions": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "parent": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "both": lambda: (
        torch.set_float32_matmul_precision("medium"),
        setattr(torch.backends.cuda.matmul, "fp32_precision", "ieee"),
        setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    ),
    "errors asked for": lambda: torch.use_deterministic_algorithms(True),
}


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="from torch 2.9")
@pytest.mark.parametrize("way", WAYS)
def test_settings_are_found_again_whichever_way_they_were_made(way: str) -> None:
    read, write = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
    try:
        WAYS[way]()
        before = everything()
        with arithmetic():
            assert flags() == OURS
            assert torch.get_deterministic_debug_mode() == (2 if way == "errors asked for" else 1)
        assert everything() == before
        write("generic", "all", "tf32")  # what inherited before goes on inheriting
        assert read("mkldnn", "conv") == "tf32"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("highest")
        for place in (("generic", "all"), ("cuda", "matmul"), ("mkldnn", "matmul")):
            write(*place, "none")


def test_the_last_of_several_threads_gives_the_settings_back(fast: None) -> None:
    before, inside, leave = everything(), threading.Event(), threading.Event()

    def measure() -> None:
        with measuring(CPU):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=measure)
    with arithmetic():
        thread.start()
        assert inside.wait(10)
    try:
        assert flags()[:2] == OURS[:2]  # the other is at it still
    finally:
        leave.set()
        thread.join()
    assert everything() == before


def test_an_operation_without_a_deterministic_form_is_named_and_does_not_fail() -> None:
    class Puts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(x.clone().put_(torch.tensor([0, 0]), torch.ones(2)))

    problem = qx.LayerwiseQuantizationProblem(calibrated(Puts()), data(), engine="direct")
    assert "without a deterministic form: put_" in str(problem.describe())
    with noting() as names:
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))  # outside nobody is asked
    assert names == []


def test_an_inner_block_may_keep_the_users_settings(fast: None) -> None:
    with arithmetic("as set"):
        assert flags()[0] == "medium"
        with arithmetic():
            assert flags()[0] == "medium"
        with arithmetic("full"):
            assert flags()[0] == "highest"
        assert flags()[0] == "medium"


def test_as_set_runs_under_the_users_settings_and_says_which_in_samples(fast: None, tmp_path: Path) -> None:
    network = Recording()
    model = calibrated(network)
    network.seen.clear()
    result = _explore(model, precision="as set")
    assert {seen[0] for seen in network.seen} == {"medium"}
    assert {seen[3:5] for seen in network.seen} == {(False, False)}
    assert result.front.arithmetic == arithmetic_text("as set", nn.Identity(), CPU)
    assert "mkldnn matmul bf16" in result.front.arithmetic or not _places()
    assert result.num_moved is not None
    assert f"verification moved {result.num_moved} of 32 samples at most" in str(result)
    path = tmp_path / "front.json"
    result.front.save(path)
    assert qx.Front.load(path).arithmetic == result.front.arithmetic


def test_what_was_measured_under_other_settings_is_forgotten() -> None:
    problem = qx.LayerwiseQuantizationProblem(calibrated(Recording()), data(), precision="as set")
    row = problem.space.widest
    list(problem.measure(row))
    assert len(problem.evaluations) == 1
    torch.backends.cudnn.benchmark = True  # of no matter on a CPU
    try:
        assert len(problem.evaluations) == 1
        torch.use_deterministic_algorithms(True)
        assert len(problem.evaluations) == 0
    finally:
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(False)


def test_a_block_of_autocast_stays_and_is_told() -> None:
    model = calibrated(Recording())
    with torch.autocast("cpu"):
        with measuring(CPU):
            assert torch.is_autocast_enabled("cpu")
        described = str(qx.LayerwiseQuantizationProblem(model, data()).describe())
    assert "arithmetic: full float32, deterministic, autocast cpu torch.bfloat16" in described


def test_full_is_said_and_a_wrong_precision_is_refused() -> None:
    model = calibrated(Recording())
    assert "arithmetic: full float32, deterministic" in str(qx.LayerwiseQuantizationProblem(model, data()).describe())
    with pytest.raises(ProblemError, match="`precision`"):
        qx.LayerwiseQuantizationProblem(model, data(), precision="half")
    with pytest.raises(EvaluationError, match="`precision`"):
        DirectEvaluator(model, data(), qx.top1_accuracy, precision="half")


def test_training_is_deterministic_and_as_precise_as_the_user_has_set(fast: None) -> None:
    network = Recording()
    model = calibrated(network)
    for deterministic in (True, False):
        network.seen.clear()
        qx.fine_tune(
            model,
            [4, 4, 4],
            data(),
            nn.functional.cross_entropy,
            epochs=1,
            device="cpu",
            progress=False,
            deterministic=deterministic,
        )
        assert {seen[0] for seen in network.seen} == {"medium"}
        assert {seen[3:5] for seen in network.seen} == {(deterministic, deterministic)}


def test_on_cuda_attention_trains_by_its_plain_form() -> None:
    with trained_deterministically(torch.device("cuda")):
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert not torch.backends.cuda.mem_efficient_sdp_enabled()
        assert torch.backends.cuda.math_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


def test_fine_tuning_says_what_has_no_deterministic_form() -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
        return nn.functional.cross_entropy(output, target)

    result = qx.fine_tune(calibrated(Recording()), [4, 4, 4], data(), loss, epochs=1, device="cpu", progress=False)
    assert result.unforced == ("put_",)
    assert "for no deterministic form: put_" in str(result)


def test_the_arithmetic_names_the_dtype_of_the_network() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    model = qx.QuantizedActivationsModel(network, predicates.by_type(nn.ReLU))
    model.calibrate([torch.randn(8, 4)])
    problem = qx.LayerwiseQuantizationProblem(model, [(torch.randn(8, 4), torch.arange(8) % 3)], engine="direct")
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        model.to(dtype)
        assert problem.direct.arithmetic == f"full {str(dtype).removeprefix('torch.')}, deterministic"
    network[0].float()
    assert problem.direct.arithmetic == "full float32 and float64, deterministic"
