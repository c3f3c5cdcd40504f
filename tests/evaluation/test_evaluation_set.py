"""The evaluation set: held or read again, and the same in every pass."""

import numpy as np
import pytest
import torch
from networks import batches, digits
from problems import prefix_evaluator, random_state, search_loader, tiny_model, tiny_network
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import qexplore as qx
from qexplore.errors import DataError, EvaluationError, MetricError
from qexplore.evaluation.batches import EvaluationSet, free_memory
from qexplore.model import Placement

CANDIDATES = np.array([(2, 3, 4), (4, 2, 3), (0, 8, 8)])
SEARCH = TensorDataset(*digits().search)


def scores(loader, metric=qx.top1_accuracy, network=None, **options):
    evaluator = qx.DirectEvaluator(tiny_model(network), loader, metric, **options)
    evaluations = list(evaluator.evaluate(CANDIDATES))
    assert all(evaluation.is_complete for evaluation in evaluations), evaluations
    return [evaluator.float_evaluation.score, *(evaluation.score for evaluation in evaluations)]


EXPECTED = scores(search_loader())


class Jittered(Dataset):
    """A random transform: other brightness each time."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return digits().search.x[index] * (1 + torch.rand(())), digits().search.y[index]


class Generated:
    """An iterable whose passes are drawn up by ``make``."""

    def __init__(self, make):
        self.make = make
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter(self.make(self.passes))


LOADERS = {
    "list of one batch": lambda: search_loader(),
    "batches that do not divide the set": lambda: search_loader(150),
    "small batches": lambda: search_loader(3),
    "DataLoader": lambda: DataLoader(SEARCH, batch_size=128),
    "shuffled": lambda: DataLoader(SEARCH, batch_size=128, shuffle=True),
    "drop_last that drops nothing": lambda: DataLoader(SEARCH, batch_size=100, shuffle=True, drop_last=True),
    "an iterable of its own": lambda: Generated(lambda _: search_loader(90)),
}


@pytest.mark.parametrize("hold_bytes", [None, 0], ids=["held", "streamed"])
@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_the_same_samples_give_the_same_scores_however_they_come(loader, hold_bytes):
    assert scores(loader(), hold_bytes=hold_bytes) == EXPECTED


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_network_with_noise_answers_the_same_held_and_streamed(shuffle):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_network()

        def forward(self, x):
            return self.inner(x + 0.3 * torch.randn_like(x))

    def loader():
        return DataLoader(SEARCH, batch_size=100, shuffle=shuffle)

    held = scores(loader(), network=Noisy())
    assert scores(loader(), network=Noisy(), hold_bytes=0) == held
    assert held != EXPECTED


@pytest.mark.parametrize(
    ("hold_bytes", "is_held"), [(None, True), (10**9, True), (102_400 + 3_200, True), (4_000, False)]
)
def test_a_set_is_held_when_it_fits(hold_bytes, is_held):
    loader = Generated(lambda _: search_loader(100))
    data = EvaluationSet(loader, Placement.of(tiny_network()), hold_bytes=hold_bytes)
    assert data.is_held == is_held
    assert len(data) == 4
    passes = loader.passes
    for _ in range(3):
        assert torch.equal(torch.cat([y for _, y in data]), digits().search.y)
    assert loader.passes == passes + (0 if is_held else 3)


def test_free_memory_is_more_than_nothing():
    assert free_memory(torch.device("cpu")) > 2**20


def test_inputs_get_the_networks_dtype_and_targets_keep_theirs():
    double = [(x.double(), y) for x, y in search_loader()]
    assert scores(double) == EXPECTED
    ((inputs, target),) = EvaluationSet(double, Placement.of(tiny_network().half()))
    assert (inputs.dtype, target.dtype) == (torch.float16, torch.int64)


def test_reading_leaves_the_users_random_state_alone():
    before = random_state()
    scores(DataLoader(SEARCH, batch_size=100, shuffle=True), hold_bytes=0)
    assert random_state() == before


CHANGING = {
    "shuffled, the rest dropped": lambda: DataLoader(SEARCH, batch_size=150, shuffle=True, drop_last=True),
    "random transform": lambda: DataLoader(Jittered(), batch_size=40),
    "fewer each time": lambda: Generated(lambda n: search_loader(50)[n:]),
    "a dropped sample of zeros": lambda: Generated(
        lambda n: [(torch.zeros(4 - n, 1, 8, 8), torch.zeros(4 - n, dtype=torch.int64))]
    ),
    "empty the second time": lambda: Generated(lambda n: search_loader() if n == 1 else []),
    "other targets": lambda: Generated(lambda n: [(x, (y + n) % 10) for x, y in search_loader()]),
}


@pytest.mark.parametrize("hold_bytes", [None, 0], ids=["held", "streamed"])
@pytest.mark.parametrize("loader", CHANGING.values(), ids=CHANGING)
def test_a_loader_that_gives_other_samples_in_a_second_pass_is_refused(loader, hold_bytes):
    with pytest.raises(DataError, match="same samples in every pass.*shuffle=False"):
        scores(loader(), hold_bytes=hold_bytes)


@pytest.mark.parametrize("loader", [CHANGING[name] for name in ("shuffled, the rest dropped", "random transform")])
def test_a_whole_set_metric_is_held_to_the_same_samples_too(loader):
    with pytest.raises(DataError, match="same samples in every pass"):
        scores(loader(), metric=qx.whole_set(lambda model, loader: 1.0))


LATE_CHANGES = {
    "another sample": lambda n: search_loader(100) if n < 4 else batches(digits().report, 100),
    "a batch more": lambda n: search_loader(100) if n < 4 else [*search_loader(100), search_loader(100)[0]],
    "a batch less": lambda n: search_loader(100) if n < 4 else search_loader(100)[:-1],
}


@pytest.mark.parametrize("make", LATE_CHANGES.values(), ids=LATE_CHANGES)
def test_a_streamed_loader_that_changes_later_spoils_the_whole_call(make):
    # Two passes to look at the data, one for the float network: the first candidate is the fourth.
    evaluator = qx.DirectEvaluator(tiny_model(), Generated(make), qx.top1_accuracy, hold_bytes=0)
    with pytest.raises(DataError, match="second pass gave others"):
        list(evaluator.evaluate(CANDIDATES))


def test_a_one_shot_iterator_is_fine_when_it_can_be_held():
    assert scores(iter(search_loader(100))) == EXPECTED
    assert scores(batch for batch in search_loader(100)) == EXPECTED


def test_a_one_shot_iterator_is_refused_when_it_is_too_large_to_hold():
    with pytest.raises(DataError, match="read only once and is too large"):
        scores(iter(search_loader(100)), hold_bytes=1000)


def test_a_one_shot_iterator_is_refused_for_a_whole_set_metric():
    with pytest.raises(DataError, match="got an iterator"):
        scores(iter(search_loader(100)), metric=qx.whole_set(lambda model, loader: 1.0))


@pytest.mark.parametrize("metric", [qx.top1_accuracy, qx.whole_set(lambda model, loader: 1.0)], ids=["each", "whole"])
@pytest.mark.parametrize(
    "loader", [[], (), DataLoader(TensorDataset(torch.zeros(0, 1))), iter([])], ids=lambda one: type(one).__name__
)
def test_an_empty_loader_is_refused(loader, metric):
    with pytest.raises(DataError, match="at least one batch|got an iterator"):
        scores(loader, metric=metric)


@pytest.mark.parametrize("loader", [3, None, tiny_network()])
def test_what_cannot_be_iterated_is_refused(loader):
    with pytest.raises(DataError, match=f"got {type(loader).__name__}: give a DataLoader"):
        scores(loader)


@pytest.mark.parametrize("batch", ["text", 3, None, (), {1, 2}])
def test_a_batch_of_another_form_is_refused_and_unpack_named(batch):
    with pytest.raises(DataError, match="unpack="):
        scores([batch])


def test_a_batch_that_the_network_does_not_take_is_refused_and_unpack_named():
    with pytest.raises(EvaluationError, match="float network.*unpack=") as raised:
        scores([(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))])
    assert isinstance(raised.value.__cause__, RuntimeError)


@pytest.mark.parametrize("unpacked", [None, [1, 2], (1, 2, 3), torch.zeros(2)])
def test_an_unpack_that_gives_no_pair_is_refused(unpacked):
    with pytest.raises(DataError, match="must return a tuple"):
        scores(search_loader(), unpack=lambda batch: unpacked)


class TwoInputs(nn.Module):
    """Halves of an image, by position or by name."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_network()

    def forward(self, upper, lower):
        return self.inner(torch.cat([upper, lower], dim=2))


def test_unpack_serves_a_network_of_several_inputs():
    loader = [(y, x[:, :, :4], x[:, :, 4:]) for x, y in search_loader(100)]
    model = qx.QuantizedActivationsModel(TwoInputs(), qx.predicates.by_type(nn.ReLU))

    def unpack(batch):
        return (batch[1], batch[2]), batch[0]

    model.calibrate(loader, unpack=unpack)
    for hold_bytes in (None, 0):
        evaluator = qx.DirectEvaluator(model, loader, qx.top1_accuracy, unpack=unpack, hold_bytes=hold_bytes)
        assert evaluator.float_evaluation.score == EXPECTED[0]
        # Each half has a quantizer of its own, here with the range of the whole image.
        reference = qx.DirectEvaluator(tiny_model(), search_loader(), qx.top1_accuracy)
        tiny_ranges = reference.model.activation_fake_quantizers
        for name, quantizer in model.activation_fake_quantizers.items():
            quantizer.amax = tiny_ranges[name.removeprefix("inner.").partition(".")[0]].amax
        assert [e.score for e in evaluator.evaluate([(one[0], *one) for one in CANDIDATES])] == EXPECTED[1:]


@pytest.mark.parametrize("key", ["label", "labels", "target", "targets"])
def test_dict_batches_become_keyword_arguments_without_their_target(key):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_network()

        def forward(self, *, pixels):
            return self.inner(pixels)

    loader = [{"pixels": x, key: y} for x, y in search_loader(100)]
    model = qx.QuantizedActivationsModel(Named(), qx.predicates.by_type(nn.ReLU))
    model.calibrate([{"pixels": digits().calibration.x}])
    evaluator = qx.DirectEvaluator(model, loader, qx.top1_accuracy)
    scores = [evaluator.float_evaluation.score, *(e.score for e in evaluator.evaluate(CANDIDATES))]
    assert scores == EXPECTED


def test_numpy_batches_are_data_too():
    loader = [(x.numpy(), y.numpy()) for x, y in search_loader(100)]

    def unpack(batch):
        return torch.tensor(batch[0]), torch.tensor(batch[1])

    for hold_bytes in (None, 0):
        assert scores(loader, unpack=unpack, hold_bytes=hold_bytes) == EXPECTED
    changing = Generated(lambda n: [(x + n, y) for x, y in loader])
    with pytest.raises(DataError, match="same samples in every pass"):
        scores(changing, unpack=unpack)


def test_what_an_unpack_makes_of_a_batch_counts_as_held():
    images, classes = digits().search

    def unpack(numbers):
        return images[numbers], classes[numbers]

    loader = [range(0, 200), range(200, 400)]
    assert scores(loader, unpack=unpack) == EXPECTED
    data = EvaluationSet(loader, Placement.of(tiny_network()), unpack=unpack, hold_bytes=1000)
    assert not data.is_held


def test_batches_without_a_target_serve_a_metric_of_the_output_alone():
    def spread(output, target):
        assert target is None
        return output.std(dim=1)

    evaluator = qx.DirectEvaluator(tiny_model(), [digits().search.x], qx.Metric(spread, "spread"))
    with torch.no_grad():
        expected = tiny_network()(digits().search.x).std(dim=1).double().mean().item()
    assert evaluator.float_evaluation.score == pytest.approx(expected, rel=1e-6)


def one_buffer():
    """Batches in memory that the next one is written into."""
    images, labels = torch.empty(100, 1, 8, 8), torch.empty(100, dtype=torch.long)
    for x, y in search_loader(100):
        yield images.copy_(x), labels.copy_(y)


def test_batches_that_later_ones_were_written_over_are_refused_where_they_are_held():
    class Loader:
        def __iter__(self):
            return one_buffer()

    for loader in (Loader(), one_buffer()):
        with pytest.raises(DataError, match="later batches were written into the memory of earlier ones: give copies"):
            qx.DirectEvaluator(tiny_model(), loader, qx.top1_accuracy)
    assert scores(Loader(), hold_bytes=0) == EXPECTED


def writes(place):
    def score(output, target):
        (output, target)[place][0] = 0
        return (output.argmax(1) == target).float()

    return score


def of_whole_set(model, loader):
    return sum(float((model(x.mul_(0.5)).argmax(1) == y).sum()) for x, y in loader)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (writes(0), "must leave its output and target as they are"),
        (writes(1), "must leave its output and target as they are"),
        (qx.whole_set(of_whole_set), "must leave the batches of a list as they are"),
    ],
    ids=["output", "target", "batches of a list"],
)
def test_a_metric_that_writes_into_what_other_candidates_are_scored_by_is_refused(metric, said):
    with pytest.raises(MetricError, match=said):
        qx.DirectEvaluator(tiny_model(), [(x.clone(), y.clone()) for x, y in search_loader(100)], metric)


def test_targets_need_not_count_samples_on_their_first_axis():
    def boxed(labels):
        return [{"boxes": torch.zeros(1 + int(label) % 3, 4), "label": label} for label in labels]

    def hit(output, target):
        return (output.argmax(1) == torch.stack([one["label"] for one in target])).float()

    loader, metric = [(x, boxed(y)) for x, y in search_loader(90)], qx.Metric(hit, range=(0.0, 1.0))
    assert scores(loader, metric) == EXPECTED
    engine = prefix_evaluator(tiny_model(), loader, metric, required=True)
    assert [one.score for one in engine.evaluate(CANDIDATES)] == EXPECTED[1:]
    for evaluator in (engine, engine.direct):
        part = evaluator.scores_on_subset(CANDIDATES, metric, 100)
        assert part.shape == (3, 180) and evaluator.subset_size(100) == 180


@pytest.mark.parametrize("make", [qx.DirectEvaluator, prefix_evaluator])
def test_candidates_of_another_shape_are_refused_and_a_single_one_needs_no_first_axis(make):
    evaluator = make(tiny_model(), search_loader(), qx.top1_accuracy)
    assert next(evaluator.evaluate([2, 3, 4])).score == EXPECTED[1]
    for wrong, said in (([[4, 4]], "shape"), ([[4] * 4], "shape"), ([[4, 4, 4.5]], "whole"), ([["4b", 4, 4]], "num")):
        for ask in (evaluator.evaluate, lambda rows: evaluator.scores_on_subset(rows, qx.top1_accuracy, 9)):
            with pytest.raises(EvaluationError, match=f"candidates must .*{said}"):
                list(ask(wrong))


@pytest.mark.parametrize("name", ["hold_bytes", "budget_bytes"])
@pytest.mark.parametrize("memory", ["1GB", -1, float("nan")])
def test_memory_is_told_in_bytes(name, memory):
    with pytest.raises(EvaluationError, match=f"`{name}` must be a number of at least 0, got .*: bytes, or None"):
        prefix_evaluator(tiny_model(), search_loader(), qx.top1_accuracy, **{name: memory})
