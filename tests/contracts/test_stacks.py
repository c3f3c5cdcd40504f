"""What every stack promises, shown for each row of the registry. A new one is tested by its row alone."""

from __future__ import annotations

import functools
import types
import zipfile

import pytest
import torch
from network_state import network_state
from networks import batches, digits, trained
from torch.nn import functional as F

import qexplore as qx
from qexplore.errors import DataError, QExploreError, WorkflowError
from qexplore.stacks import STACKS, StackRow, row_for, row_of_file
from qexplore.stacks.base import Converted, Settings

PACKAGE_OF_EXTRA = {"": "torch", "pt2e": "torchao", "onnx": "onnxruntime"}
METHODS = ("dynamic", "static", "qat")
EVERY_METHOD = [(row.name, method) for row in STACKS.values() for method in row.methods]
LACKING = [(row.name, method) for row in STACKS.values() for method in METHODS if method not in row.methods]

each_stack = pytest.mark.parametrize("stack", list(STACKS))
each_method = pytest.mark.parametrize(("stack", "method"), EVERY_METHOD)


def images():
    return digits().report.x[:50]


def call(stack, method, network, **options):
    pytest.importorskip(PACKAGE_OF_EXTRA[STACKS[stack].extra])
    if method == "dynamic":
        return qx.quantize_dynamic(network, images(), stack=stack, **options)
    if method == "static":
        return qx.quantize_static(network, batches(digits().calibration), stack=stack, **options)
    return qx.quantize_qat(network, batches(digits().train)[:3], F.cross_entropy, stack=stack, **options)


@functools.cache
def done(stack, method):
    """The network given, its state before, and the result."""
    network = trained("small_cnn")
    before = network_state(network)
    measured = {"report_loader": batches(digits().report), "metric": qx.top1_accuracy}
    return network, before, call(stack, method, network, **measured)


def saved(stack, path):
    done(stack, STACKS[stack].methods[-1])[2].save(path)
    return path


class TestEveryMethod:
    @each_method
    def test_is_close_to_float_and_the_network_given_comes_back_as_it_was(self, stack, method):
        network, before, result = done(stack, method)
        assert network_state(network) == before
        assert result.report.accuracy_after >= result.report.accuracy_before - 0.03
        assert result.model is not network

    @each_method
    def test_saved_file_is_read_by_its_own_stack_alone_and_loads_bit_for_bit(self, stack, method, tmp_path):
        _, _, result = done(stack, method)
        result.save(tmp_path / "network")
        assert [row.name for row in STACKS.values() if row.home.reads(tmp_path / "network")] == [stack]
        assert row_of_file(tmp_path / "network") is STACKS[stack]
        network = trained("small_cnn") if STACKS[stack].needs_network else None
        loaded = qx.load_quantized(tmp_path / "network", network)
        with torch.no_grad():
            assert torch.equal(loaded(images()), result.model(images()))

    @each_method
    def test_report_prints_every_layer(self, stack, method):
        report = done(stack, method)[2].report
        text = str(report)
        assert text.startswith(f"{method} quantization, stack {stack}")
        assert (f"engine {report.settings.engine}" in text) == STACKS[stack].uses_engine
        for name in ("conv1", "fc2", "bytes on disk", "accuracy"):
            assert name in text
        assert any(row.is_quantized for row in report.strategy)
        assert report.bytes_after < 0.5 * report.bytes_before


class TestWhatAStackDoesNotHave:
    @pytest.mark.parametrize(("stack", "method"), LACKING)
    def test_method_is_refused_with_those_it_has(self, stack, method):
        with pytest.raises(WorkflowError) as refusal:
            call(stack, method, trained("small_cnn"))
        message = str(refusal.value)
        assert f'stack="{stack}"' in message and f"got {method!r}" in message
        assert all(repr(one) in message for one in STACKS[stack].methods)
        hint = message.partition("use stack=")[2]
        assert [f'"{row.name}"' in hint for row in STACKS.values()] == [
            method in row.methods for row in STACKS.values()
        ]

    @each_stack
    def test_packed_weights_are_had_or_refused_with_who_has_them(self, stack):
        settings = Settings(STACKS[stack].methods[0], stack, linear_num_bits=4)
        if STACKS[stack].packs_weights:
            assert row_for(settings) is STACKS[stack]
            return
        with pytest.raises(WorkflowError, match=f'stack="{stack}" has no packed weights.*use stack="eager" or "fx"'):
            row_for(settings)

    @each_stack
    def test_number_formats_are_its_own(self, stack):
        for name in STACKS[stack].formats:
            assert row_for(Settings("static", stack, float_format=name)).name == stack


class TestFiles:
    @each_stack
    def test_network_is_asked_for_where_the_file_holds_none(self, stack, tmp_path):
        path = saved(stack, tmp_path / "network")
        if STACKS[stack].needs_network:
            with pytest.raises(WorkflowError, match=rf'by the stack "{stack}".*load_quantized\(path, network\)'):
                qx.load_quantized(path)
        else:
            assert qx.load_quantized(path)(images()).shape == (50, 10)

    @each_stack
    def test_torn_file_is_refused(self, stack, tmp_path):
        path = saved(stack, tmp_path / "network")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(QExploreError, match="file"):
            qx.load_quantized(path, trained("small_cnn"))

    @each_stack
    def test_stray_files_are_not_its_own(self, stack, tmp_path):
        (tmp_path / "empty").touch()
        (tmp_path / "text").write_text("text")
        torch.save(trained("small_cnn").state_dict(), tmp_path / "state")
        with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
            archive.writestr("text", "text")
        for path in tmp_path.iterdir():
            assert not STACKS[stack].home.reads(path)
            with pytest.raises(WorkflowError, match=r"not written by result\.save"):
                qx.load_quantized(path, trained("small_cnn"))


class TestStackThatAFileNames:
    """It is looked up, never imported."""

    @pytest.mark.parametrize("name", ["base", "os", "no_such_stack"])
    def test_that_is_no_row_is_refused(self, name, tmp_path):
        self.rewrite(tmp_path / "network", lambda content: content["settings"].update(stack=name))
        with pytest.raises(WorkflowError, match="no file of a quantized network"):
            qx.load_quantized(tmp_path / "network", trained("small_cnn"))

    def test_of_a_newer_version_says_so(self, tmp_path):
        self.rewrite(tmp_path / "network", lambda content: content.update(version=99))
        with pytest.raises(WorkflowError, match="is of version 99.*update qexplore"):
            qx.load_quantized(tmp_path / "network", trained("small_cnn"))

    @staticmethod
    def rewrite(path, change):
        content = torch.load(saved("fx", path), weights_only=True)
        change(content)
        torch.save(content, path)


class TestMadeUpStack:
    """One file and one row are all that a stack needs: the calls, the comparison and the refusals take it."""

    @pytest.fixture
    def noop(self, monkeypatch):
        def quantize(network, settings, data):
            data.calibrate(network)
            return Converted(network, (), lambda path: path.write_text("noop"))

        home = types.SimpleNamespace(
            quantize=quantize,
            check=lambda settings: None,
            reads=lambda path: path.read_bytes() == b"noop",
            load=lambda path, network: network,
        )
        monkeypatch.setitem(STACKS, "noop", StackRow("noop", home, methods=("static",), needs_network=True))

    def test_is_called_saved_and_loaded(self, noop, tmp_path):
        network = trained("small_cnn")
        result = call("noop", "static", network)
        assert str(result).startswith("static quantization, stack noop")
        result.save(tmp_path / "network")
        with torch.no_grad():
            assert torch.equal(qx.load_quantized(tmp_path / "network", network)(images()), result.model(images()))

    def test_is_compared(self, noop):
        data = batches(digits().report)
        comparison = qx.compare_workflows(trained("small_cnn"), data, data, qx.top1_accuracy, stacks=["noop"])
        assert [(row.stack, row.method, row.weights) for row in comparison.rows] == [
            ("noop", "static", "per tensor"),
            ("noop", "static", "per channel"),
        ]
        assert all(row.accuracy == comparison.accuracy_float for row in comparison.rows)

    def test_is_named_among_those_there_are(self, noop):
        with pytest.raises(WorkflowError, match="'float8', 'noop', got 'nop'"):
            qx.quantize_static(trained("small_cnn"), batches(digits().calibration), stack="nop")


CALLS = {
    "quantize_dynamic": lambda **given: qx.quantize_dynamic(trained("small_cnn"), images(), **given),
    "quantize_static": lambda **given: qx.quantize_static(trained("small_cnn"), batches(digits().calibration), **given),
    "quantize_qat": lambda **given: qx.quantize_qat(trained("small_cnn"), [], F.cross_entropy, **given),
    "quantize_float8": lambda **given: qx.quantize_float8(trained("small_cnn"), [], **given),
    "compare_workflows": lambda **given: qx.compare_workflows(trained("small_cnn"), [], [], qx.top1_accuracy, **given),
}


class TestKeywords:
    @pytest.mark.parametrize("call", CALLS)
    def test_unknown_one_is_a_type_error_that_names_call_and_keyword(self, call):
        with pytest.raises(TypeError, match=rf"{call}\(\) got an unexpected keyword argument 'colour'"):
            CALLS[call](colour="red")

    @pytest.mark.parametrize(
        ("call", "given", "meant"),
        [
            ("quantize_dynamic", "weight_granularty", "weight_granularity"),
            ("quantize_static", "module", "modules"),
            ("quantize_qat", "learning_rat", "learning_rate"),
            ("quantize_qat", "freeze_afer", "freeze_after"),
            ("quantize_float8", "fromat", "format"),
            ("quantize_float8", "matric", "metric"),
            ("compare_workflows", "epoch", "epochs"),
            ("compare_workflows", "stack", "stacks"),
        ],
    )
    def test_nearest_right_spelling_is_told(self, call, given, meant):
        with pytest.raises(TypeError, match=f"'{given}', did you mean '{meant}'"):
            CALLS[call](**{given: 1})

    def test_those_of_training_are_not_taken_where_nothing_is_trained(self):
        with pytest.raises(TypeError, match="quantize_static.*'epochs'"):
            CALLS["quantize_static"](epochs=2)

    def test_defaults_are_those_of_the_settings(self):
        report = done("fx", "static")[2].report
        assert report.settings.stack == Settings("static").stack == "fx"
        with pytest.raises(DataError, match="train_loader must hold"):
            CALLS["quantize_qat"](stack="fx", epochs=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "later"}, "method must be one of 'dynamic', 'static', 'qat', got 'later'"),
        ({"weight_granularity": "group"}, "weight_granularity must be one of"),
        ({"activations": 3}, "activations must be one of 'affine', 'symmetric', got 3"),
        ({"engine": "tpu"}, "engine must be one of 'x86', .* got 'tpu'; leave engine=None"),
        ({"linear_num_bits": True}, r"linear_num_bits must be an int in \[2, 8\], got True"),
        ({"method": "dynamic", "activation_observer": "minmax"}, "activation_observer must be None in dynamic"),
    ],
)
def test_settings_check_themselves(settings, message):
    with pytest.raises(WorkflowError, match=message):
        Settings(**{"method": "static", **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"float_format": "E2M1"}, "`format` must be one of 'E4M3', 'E5M2', 'E3M4', 'mixed', got 'E2M1'"),
        ({"weight_granularity": "tensor"}, "weight_granularity of stack=\"float8\" must be 'channel', got 'tensor'"),
        ({"engine": "x86"}, "engine of stack=\"float8\" must be None, got 'x86'"),
        ({"activation_observer": "minmax"}, 'activation_observer of stack="float8" must be None'),
    ],
)
def test_float8_refuses_settings_of_integers(settings, message):
    with pytest.raises(WorkflowError, match=message):
        row_for(Settings("static", "float8", **settings))


def test_engine_other_than_the_default_is_told_in_the_notes():
    assert not any("made for the engine" in note for note in done("fx", "static")[2].report.notes)
    other = next(name for name in ("qnnpack", "onednn") if name != torch.backends.quantized.engine)
    if other not in torch.backends.quantized.supported_engines:
        pytest.skip(f"no engine {other} here")
    notes = call("fx", "static", trained("small_cnn"), engine=other).report.notes
    assert f"made for the engine {other}: set torch.backends.quantized.engine = '{other}' where it runs" in notes
