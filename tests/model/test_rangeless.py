"""A model whose points have no range says so when it is called, once; whoever needs ranges refuses."""

import copy
import pickle
import warnings

import pytest
from problems import search_loader, tiny_network, weighted_model
from torch import nn

import qexplore as qx
from qexplore import predicates

X, Y = search_loader(16)[0]
LOADER = [(X, Y)]


def name_of(prepare):
    return getattr(prepare, "__name__", prepare)


def wrapped(**options):
    return qx.QuantizedModel(tiny_network(), predicates.by_type(nn.ReLU), predicates.weighted, **options)


def warned(model, *calls):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for call in calls or (lambda: model(X),):
            call()
    return [str(one.message) for one in said if issubclass(one.category, qx.UncalibratedWarning)]


def with_widths(model):
    model.num_bits = [4] * len(model.points)
    return model


def applied(model):
    point = qx.explore(
        qx.LayerwiseQuantizationProblem(weighted_model(), LOADER, qx.top1_accuracy), max_evaluations=3, seed=0
    ).front[0]
    point.apply_to(model, other_model=True)
    return model


@pytest.mark.parametrize("prepare", [lambda model: model, with_widths, copy.deepcopy, applied], ids=name_of)
def test_an_uncalibrated_model_warns_once_with_the_way_out(prepare):
    model = prepare(wrapped())
    (said,) = warned(model, lambda: model(X), lambda: model(X), lambda: model.eval()(X))
    assert "3 of its 6 points have no range ('input', 'relu1', 'relu2')" in said
    assert "model.calibrate(loader)" in said and "load_manifest" in said


def test_widths_used_for_a_block_warn_as_well():
    model = wrapped()
    with model.using([4] * 6):
        assert len(warned(model)) == 1


def test_a_loaded_state_without_ranges_warns_and_one_with_ranges_does_not():
    for source, count in ((wrapped(), 1), (weighted_model(), 0)):
        model = wrapped()
        model.load_state_dict(source.state_dict())
        assert len(warned(model)) == count
    assert len(warned(pickle.loads(pickle.dumps(wrapped())))) == 1


def test_points_without_a_range_among_others_are_named():
    model = wrapped()
    model.fake_quantizers["input"].amax = 1.0
    model.fake_quantizers["relu2"].amax = 2.0
    (said,) = warned(model)
    assert "1 of its 6 points have no range ('relu1')" in said


def calibrated(model):
    model.calibrate(LOADER)


def by_manifest(path):
    qx.save_manifest(weighted_model(), path)
    return lambda model: qx.load_manifest(path).apply(model)


def off(model):
    model.num_bits = [0, 0, 0, 4, 4, 4]


def disabled(model):
    for quantizer in model.fake_quantizers.values():
        quantizer.disable()


@pytest.mark.parametrize("prepare", [calibrated, off, disabled, "manifest"], ids=name_of)
def test_nothing_is_said_where_every_point_that_runs_has_a_range(prepare, tmp_path):
    model = wrapped()
    (by_manifest(tmp_path / "m.json") if prepare == "manifest" else prepare)(model)
    assert warned(model) == []


def test_points_that_are_switched_on_later_are_warned_of_then():
    model = wrapped()
    off(model)
    assert warned(model) == []
    model.num_bits = [4] * 6
    assert len(warned(model)) == 1


def test_whoever_means_it_can_say_so():
    model = wrapped()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", qx.UncalibratedWarning)
        model(X)


@pytest.mark.parametrize(
    "use",
    [
        lambda model, path: qx.save_manifest(model, path),
        lambda model, path: qx.LayerwiseQuantizationProblem(model, LOADER, qx.top1_accuracy),
        lambda model, path: qx.fine_tune(model, [4] * 6, LOADER, nn.functional.cross_entropy, epochs=1),
        lambda model, path: qx.analyze(model, LOADER),
        lambda model, path: qx.export_onnx(model, path, X),
    ],
    ids=["manifest", "explore", "fine_tune", "analyze", "onnx"],
)
def test_whatever_needs_ranges_refuses_a_model_without(use, tmp_path):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            use(wrapped(), tmp_path / "file")
    except qx.QExploreError as error:
        assert "calibrate" in str(error)
    else:
        pytest.fail("nothing was said")


def test_calibrating_and_describing_do_not_warn():
    model = wrapped()
    assert (
        warned(model, lambda: model.describe(X), lambda: model.calibrate(LOADER, method="auto"), lambda: model(X)) == []
    )
