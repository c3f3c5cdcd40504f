"""The metrics against scikit-learn, torch's own losses and numpy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error, top_k_accuracy_score
from torch.nn import functional as F

import qexplore as qx
from qexplore.errors import MetricError
from qexplore.metrics import NOT_COUNTED


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(*shape: int, num_classes: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(num_classes, shape, generator=torch.Generator().manual_seed(seed))


LOGITS, TARGET = drawn(200, 7), classes(200, num_classes=7)


def summary(metric: qx.Metric, output: object, target: object) -> float:
    return metric.summarize(metric(output, target).numpy())


def test_top1_accuracy_is_sklearns():
    scores = qx.top1_accuracy(LOGITS, TARGET)
    assert scores.shape == (200,)
    assert qx.top1_accuracy.summarize(scores.numpy()) == accuracy_score(TARGET, LOGITS.argmax(1))


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_topk_accuracy_is_sklearns(k):
    expected = top_k_accuracy_score(TARGET, LOGITS, k=k, labels=range(7))
    assert summary(qx.topk_accuracy(k), LOGITS, TARGET) == pytest.approx(expected, abs=1e-12)


def test_the_right_class_is_always_among_all_classes():
    assert summary(qx.topk_accuracy(7), LOGITS, TARGET) == 1.0


def test_a_mean_of_hits_is_the_exact_count_over_the_exact_number():
    scores = np.array([1.0] * 1_000_003 + [0.0] * 333_333, dtype=np.float32)
    assert qx.top1_accuracy.summarize(scores) == 1_000_003 / 1_333_336


def test_token_accuracy_is_the_mean_of_each_samples_share():
    logits, target = drawn(5, 6, 4), classes(5, 6, num_classes=4)
    target[0, :2] = -100
    target[3, 5] = -100
    expected = []
    for row, wanted in zip(logits.argmax(2).tolist(), target.tolist(), strict=True):
        counted = [a == b for a, b in zip(row, wanted, strict=True) if b != -100]
        expected.append(sum(counted) / len(counted))
    np.testing.assert_allclose(qx.token_accuracy(logits, target), expected, rtol=1e-6)


def test_pixel_accuracy_is_the_mean_of_each_samples_share():
    logits, target = drawn(3, 4, 5, 6), classes(3, 5, 6, num_classes=4)
    target[1, :2] = 255
    expected = [
        accuracy_score(target[i][target[i] != 255], logits[i].argmax(0)[target[i] != 255]) for i in range(len(target))
    ]
    np.testing.assert_allclose(qx.pixel_accuracy(logits, target), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("metric", "logits", "ignored"),
    [
        (qx.token_accuracy, drawn(2, 3, 4), torch.full((2, 3), -100)),
        (qx.pixel_accuracy, drawn(2, 4, 3, 3), torch.full((2, 3, 3), 255)),
    ],
)
def test_a_sample_of_which_nothing_counts_is_no_part_of_the_mean(metric, logits, ignored):
    assert metric(logits, ignored).tolist() == [NOT_COUNTED, NOT_COUNTED]
    counted = logits.argmax(metric.function.keywords["dim"])[1:]
    assert summary(metric, logits, torch.cat([ignored[:1], counted])) == 1.0
    with pytest.raises(MetricError, match="needs samples that count, got 2"):
        summary(metric, logits, ignored)


@pytest.mark.parametrize(
    ("metric", "logits", "ignored", "elsewhere"),
    [
        (qx.token_accuracy, drawn(1, 4, 3), -100, 255),
        (qx.pixel_accuracy, drawn(1, 3, 2, 2), 255, -100),
    ],
)
def test_only_the_metrics_own_ignored_index_does_not_count(metric, logits, ignored, elsewhere):
    right = logits.argmax(-1 if logits.dim() == 3 else 1)
    target = right.clone()
    target.view(-1)[0] = elsewhere
    with pytest.raises(MetricError, match=rf"labels from 0 to 2.* or {ignored}, .*got {elsewhere}"):
        metric(logits, target)
    target.view(-1)[0] = ignored
    assert metric(logits, target).item() == 1.0


def test_negative_log_likelihood_is_sklearns_log_loss():
    expected = log_loss(TARGET, LOGITS.double().softmax(1), labels=range(7))
    assert summary(qx.negative_log_likelihood, LOGITS, TARGET) == pytest.approx(expected, rel=1e-6)


def test_negative_log_likelihood_of_tokens_is_each_samples_mean_over_what_counts():
    logits, target = drawn(4, 6, 5), classes(4, 6, num_classes=5)
    target[2, 1:] = -100
    expected = [F.cross_entropy(logits[i], target[i]).item() for i in range(4)]
    np.testing.assert_allclose(qx.negative_log_likelihood(logits, target), expected, rtol=1e-5)


def test_perplexity_is_exp_of_the_mean_loss_over_all_batches():
    parts = [qx.perplexity(x, y) for x, y in zip(LOGITS.split(33), TARGET.split(33), strict=True)]
    expected = np.exp(F.cross_entropy(LOGITS.double(), TARGET).item())
    assert qx.perplexity.summarize(torch.cat(parts).numpy()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(9, 3), (9,), (9, 2, 2, 2)])
def test_squared_error_is_sklearns(shape):
    output, target = drawn(*shape), drawn(*shape, seed=4)
    expected = mean_squared_error(target.reshape(-1), output.reshape(-1))
    assert summary(qx.squared_error, output, target) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("metric", "name", "higher_is_better", "limits"),
    [
        (qx.top1_accuracy, "accuracy", True, (0, 1)),
        (qx.topk_accuracy(5), "top-5 accuracy", True, (0, 1)),
        (qx.token_accuracy, "token accuracy", True, (0, 1)),
        (qx.pixel_accuracy, "pixel accuracy", True, (0, 1)),
        (qx.negative_log_likelihood, "negative log-likelihood", False, (0, np.inf)),
        (qx.perplexity, "perplexity", False, (1, np.inf)),
        (qx.squared_error, "squared error", False, (0, np.inf)),
    ],
)
def test_metrics_say_their_name_direction_and_range(metric, name, higher_is_better, limits):
    assert (metric.name, metric.higher_is_better, metric.range) == (name, higher_is_better, limits)


NAN_CASES = {
    "top-1": (qx.top1_accuracy, drawn(3, 4), classes(3, num_classes=4)),
    "top-2": (qx.topk_accuracy(2), drawn(3, 4), classes(3, num_classes=4)),
    "tokens": (qx.token_accuracy, drawn(3, 2, 4), classes(3, 2, num_classes=4)),
    "ignored token": (qx.negative_log_likelihood, drawn(3, 2, 4), torch.tensor([[1, 1], [-100, 1], [1, 1]])),
    "pixels": (qx.pixel_accuracy, drawn(3, 4, 2, 2), classes(3, 2, 2, num_classes=4)),
    "nll": (qx.negative_log_likelihood, drawn(3, 4), classes(3, num_classes=4)),
    "perplexity": (qx.perplexity, drawn(3, 4), classes(3, num_classes=4)),
    "squared error": (qx.squared_error, drawn(3, 4), drawn(3, 4, seed=5)),
}


@pytest.mark.parametrize("case", NAN_CASES.values(), ids=NAN_CASES)
def test_a_sample_whose_output_holds_nan_scores_nan_and_the_others_do_not(case):
    metric, output, target = case
    spoiled = output.clone()
    spoiled[1].view(-1)[0] = torch.nan
    scores = metric(spoiled, target)
    assert scores.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(scores[[0, 2]], metric(output, target)[[0, 2]])


SHAPE_CASES = {
    "one value per sample": (qx.top1_accuracy, drawn(4), classes(4, num_classes=2), "outputs of shape [B, C]"),
    "fewer classes than k": (qx.topk_accuracy(5), drawn(4, 3), classes(4, num_classes=3), "C >= 5"),
    "target of another length": (qx.top1_accuracy, drawn(4, 3), classes(5, num_classes=3), "shape (4,)"),
    "one-hot target": (qx.top1_accuracy, drawn(4, 3), torch.eye(4, 3), "got torch.float32 (4, 3)"),
    "floating target": (qx.top1_accuracy, drawn(4, 3), drawn(4), "class indices"),
    "no target": (qx.top1_accuracy, drawn(4, 3), None, "got NoneType"),
    "tokens of another length": (qx.token_accuracy, drawn(2, 3, 4), classes(2, 4, num_classes=4), "shape (2, 3)"),
    "tokens without time": (qx.token_accuracy, drawn(4, 3), classes(4, num_classes=3), "token accuracy needs outputs"),
    "tokens without classes": (qx.token_accuracy, drawn(4), classes(4, num_classes=3), "token accuracy needs outputs"),
    "pixels of another size": (qx.pixel_accuracy, drawn(2, 3, 4, 4), classes(2, 4, num_classes=3), "shape (2, 4, 4)"),
    "pixels without area": (qx.pixel_accuracy, drawn(4, 3), classes(4, num_classes=3), "pixel accuracy needs outputs"),
    "nll of pixels": (qx.negative_log_likelihood, drawn(2, 3, 4, 5), classes(2, 4, 5, num_classes=3), "(2, 3, 4)"),
    "nll of numbers": (qx.negative_log_likelihood, torch.tensor(1.0), torch.tensor(1), "needs outputs of shape"),
    "error of other shape": (qx.squared_error, drawn(4, 3), drawn(4, 1), "(4, 3), got (4, 1)"),
    "error without target": (qx.squared_error, drawn(4, 3), None, "got NoneType"),
    "error of a number": (qx.squared_error, torch.tensor(1.0), torch.tensor(1.0), "needs outputs of shape"),
}


@pytest.mark.parametrize("case", SHAPE_CASES.values(), ids=SHAPE_CASES)
def test_wrong_shapes_are_named_with_what_was_wanted_and_received(case):
    metric, output, target, sentence = case
    with pytest.raises(MetricError) as raised:
        metric(output, target)
    assert sentence in str(raised.value)


OUTPUT_FORMS = {
    "tuple": lambda logits: (logits, "hidden states"),
    "list": lambda logits: [logits],
    "dict": lambda logits: {"loss": 0.0, "logits": logits},
    "object with logits": lambda logits: SimpleNamespace(loss=0.0, logits=logits),
}


@pytest.mark.parametrize("form", OUTPUT_FORMS.values(), ids=OUTPUT_FORMS)
@pytest.mark.parametrize("metric", [qx.top1_accuracy, qx.topk_accuracy(2), qx.negative_log_likelihood])
def test_logits_are_found_in_the_usual_outputs(form, metric):
    torch.testing.assert_close(metric(form(LOGITS), TARGET), metric(LOGITS, TARGET), rtol=0, atol=0)


@pytest.mark.parametrize("output", [(), ("text",), None, 3.0])
def test_an_output_without_logits_is_refused_by_name(output):
    with pytest.raises(MetricError, match=f"got {type(output).__name__}.*Metric of your own"):
        qx.top1_accuracy(output, TARGET)


@pytest.mark.parametrize("k", [0, -1, 1.0, True, "2", None])
def test_topk_takes_a_positive_int_only(k):
    with pytest.raises(MetricError, match="an int of at least 1"):
        qx.topk_accuracy(k)


def test_half_precision_outputs_are_scored_in_single_precision():
    half = LOGITS.half()
    torch.testing.assert_close(
        qx.negative_log_likelihood(half, TARGET), qx.negative_log_likelihood(half.float(), TARGET), rtol=0, atol=0
    )
    assert qx.squared_error(half, half).dtype == torch.float32
