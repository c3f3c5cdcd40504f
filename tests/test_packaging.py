"""What a user installs: metadata, environments, the wheel, and how light the import is."""

import ast
import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import qexplore

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def metadata():
    """The arguments of `setup()` that are written as plain values; nothing is executed."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and name_of(node.func) == "setup")
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if is_literal(keyword.value)}


def is_literal(node):
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def name_of(node):
    return getattr(node, "id", None)


def project_name(requirement):
    """The normalized name in a requirement such as `PyYAML>=6.0`."""
    return re.match(r"[\w.-]+", requirement).group().lower().replace("_", "-")


def python(*arguments, **options):
    """Run a fresh Python outside the checkout, and fail with what it wrote."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_version_has_one_source():
    source = (ROOT / "src" / "qexplore" / "_version.py").read_text(encoding="utf-8")
    assert f'__version__ = "{qexplore.__version__}"\n' in source
    assert importlib.metadata.version("qexplore") == qexplore.__version__


def test_conda_environment_is_the_requirements_with_the_extras_demo_and_dev(metadata):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *packages, last = environment["dependencies"][-1]["pip"]
    extras = metadata["extras_require"]
    assert last == "-e ."
    assert sorted(packages) == sorted({*metadata["install_requires"], *extras["demo"], *extras["dev"]})


def test_conda_environment_holds_the_packages_users_expect_in_it():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    names = {project_name(package) for package in environment["dependencies"][-1]["pip"]}
    assert names >= {"torch", "torchvision", "pytorch-quantization", "pymoo", "numpy", "pytest"}


def test_constraints_are_exact_and_cover_every_requirement(metadata):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []

    extras = metadata["extras_require"]
    required = {project_name(name) for name in [*metadata["install_requires"], *extras["demo"], *extras["dev"]]}
    assert required <= {project_name(pin) for pin in pins}


def test_import_is_light(tmp_path):
    code = "import sys, qexplore; print(*{'torchvision', 'matplotlib', 'sklearn'} & sys.modules.keys())"
    assert python("-c", code, cwd=tmp_path).split() == []


def test_public_names_are_sorted_and_resolve():
    assert qexplore.__all__ == sorted(set(qexplore.__all__))
    for name in qexplore.__all__:
        assert getattr(qexplore, name) is not None


def test_type_checkers_are_told_the_same_public_names():
    tree = ast.parse((ROOT / "src" / "qexplore" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = [(alias.name, node.module.split(".")[1:2]) for node in block.body for alias in node.names]

    assert ast.unparse(block.test) == "TYPE_CHECKING"
    assert all(alias.asname == alias.name for node in block.body for alias in node.names), "as makes a name public"
    homes = {name: [room] for name, room in qexplore._HOMES.items()} | {name: [] for name in qexplore._ROOMS}
    assert sorted(told) == sorted(homes.items())
    assert len(qexplore._HOMES) == sum(len(names.split()) for names in qexplore._NAMES_BY_ROOM.values())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the sdist of a copy, as building leaves files behind, and without isolation, which would download."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    python("-m", "build", "--no-isolation", "--outdir", str(folder), str(source))
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_wheel_holds_the_whole_package_and_nothing_else(wheel):
    source = ROOT / "src"
    modules = {path.relative_to(source).as_posix() for path in source.glob("qexplore/**/*.py")}
    parts = {path.relative_to(source).as_posix() for path in source.glob("qexplore/report/page*")} - modules
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {Path(part).suffix for part in parts} == {".html", ".css", ".js"}
    assert names == modules | parts | {"qexplore/py.typed"}


def test_wheel_states_its_requirements(wheel, metadata):
    with zipfile.ZipFile(wheel) as archive:
        folder = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        stated = email.message_from_bytes(archive.read(folder))
        assert any(name.endswith("LICENSE") for name in archive.namelist())
    requirements = stated.get_all("Requires-Dist")
    assert stated["Requires-Python"] == metadata["python_requires"] == ">=3.10"
    assert stated["Version"] == qexplore.__version__
    assert sorted(r for r in requirements if "extra ==" not in r) == sorted(metadata["install_requires"])
    assert set(stated.get_all("Provides-Extra")) == set(metadata["extras_require"])


@pytest.mark.slow
def test_wheel_works_where_there_is_no_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import qexplore; [getattr(qexplore, name) for name in qexplore.__all__]; print(qexplore.__file__)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    assert Path(python("-c", code, cwd=tmp_path, env=environment).strip()).is_relative_to(tmp_path)
