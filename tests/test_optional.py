"""An optional package that is missing is explained; one that is broken is not called missing."""

import json

import pytest

from qexplore._optional import import_optional
from qexplore.errors import MissingPackageError, QExploreError


def test_a_package_that_is_there_is_imported():
    assert import_optional("json", extra="report", purpose="reading") is json
    assert import_optional("os.path", extra="report", purpose="reading").join("a", "b")


@pytest.mark.parametrize("name", ["no_such_package", "no_such_package.inner"])
def test_a_missing_package_is_named_with_its_purpose_and_its_extra(name):
    with pytest.raises(MissingPackageError) as raised:
        import_optional(name, extra="onnx", purpose="export_onnx")
    assert str(raised.value) == (
        "export_onnx needs the package 'no_such_package', which is not installed: pip install 'qexplore[onnx]'"
    )
    assert isinstance(raised.value, (QExploreError, ImportError))
    assert raised.value.name == name.partition(".")[0]
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


def test_a_package_that_misses_one_of_its_own_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import its_own_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="its_own_dependency") as raised:
        import_optional("half_installed", extra="onnx", purpose="export_onnx")
    assert not isinstance(raised.value, MissingPackageError)


def test_a_package_that_fails_on_import_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("raise RuntimeError('wrong driver')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RuntimeError, match="wrong driver"):
        import_optional("broken_package", extra="onnx", purpose="export_onnx")
