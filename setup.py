"""Package metadata. The settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def read_version() -> str:
    """Read the version as text: importing the package would need torch, which may not be installed yet."""
    source = (HERE / "src" / "qexplore" / "_version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE).group(1)


setup(
    name="qexplore",
    version=read_version(),
    description="Explore how few bits a neural network's layers need: accuracy against bits, as a Pareto front",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="qexplore contributors",
    license="Apache-2.0",
    keywords="quantization pytorch mixed-precision pareto-front nsga-ii design-space-exploration",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"qexplore": ["py.typed"], "qexplore.report": ["page*.html", "page*.css", "page*.js"]},
    zip_safe=False,
    python_requires=">=3.10",
    # Lower bounds only, each for a reason; an upper bound would outlive its reason.
    install_requires=[
        "torch>=2.5",  # torch.OutOfMemoryError, one name for every device
        "torchvision>=0.20",  # the release that goes with torch 2.5
        # The last release that is a wheel (pure Python, needs no compiler): 2.2.0 and 2.2.1 on the package
        # index are source placeholders that fail to install, and pip picks them without this pin.
        "pytorch-quantization==2.1.3",
        # An algorithm draws from its own generator; earlier releases seed numpy's global state.
        "pymoo>=0.6.1.6",
        "numpy>=1.24",  # as moocore asks
        "moocore>=0.1.7",  # as pymoo asks
        "scipy>=1.9",  # scipy.optimize.milp
        "matplotlib>=3.6",  # subplots(layout="constrained")
        "tqdm>=4.60",  # the progress bar
        "pyyaml>=6.0",  # target files; pytorch-quantization brings it
        "click>=8.1",  # the command line
        "typing_extensions>=4.1",  # Unpack, for keywords that stand once (PEP 692), on Python 3.10; torch brings it
    ],
    entry_points={"console_scripts": ["qexplore=qexplore.cli:main"]},
    extras_require={
        "onnx": [
            "onnx>=1.17",  # opset 22 and int4
            "onnxruntime>=1.20",  # runs int4, int16 and float8 on CPU; its own quantization workflows
            "onnxscript>=0.3",  # what torch.onnx.export(dynamo=True) writes with
        ],
        "pt2e": [
            "torchao>=0.15",  # where PyTorch's export-based quantization moved
        ],
        "report": [
            "plotly>=6.0",  # pictures, and plotly.js 3, for which the script of the page is written
        ],
        "text": [
            "transformers>=4.46",  # GPT-2 for the guided pipeline
        ],
        "frames": [
            "pandas>=2.0",  # fronts, tables and evaluations as frames
        ],
        "optuna": [
            "optuna>=3.2",  # names of objectives, for a study that is shown in optuna-dashboard
        ],
        "ray": [
            "ray>=2.49",  # the first with `ray symmetric-run`, which starts a cluster inside a SLURM job
        ],
        "docs": [
            "sphinx>=7.3",  # the guide as pages, with every public name from its docstring
            "myst-parser>=3.0",  # reads Markdown as it is, anchors of headings as on GitHub
            "furo>=2024.1.29",  # the theme: maintained, dark and light, readable on a phone
        ],
        "tensorboard": [
            "tensorboard>=2.14",  # what torch.utils.tensorboard writes with
        ],
        "mlflow": [
            "mlflow-skinny>=2.10",  # tracking without a server of its own
        ],
        "demo": [
            "scikit-learn>=1.2",  # the handwritten digits
        ],
        "dev": [
            "build>=1.0",
            "furo>=2024.1.29",  # the guide is built in the slow tests
            "hypothesis>=6.80",
            "ipykernel>=6.29",  # the notebooks run in the slow tests
            "ml_dtypes>=0.5",  # float4_e2m1fn and the float6 formats, the outside truth for ours
            "mypy>=1.10",
            "myst-parser>=3.0",
            "nbclient>=0.10",
            "onnx>=1.17",  # exports are read and run in the tests
            "onnxruntime>=1.20",
            "onnxscript>=0.3",
            "pandas>=2.0",  # frames are read in the tests
            "plotly>=6.0",  # the page of a report is written in the tests
            "pytest>=8.2",  # --import-mode=importlib imports a module of the package once, not twice
            "pytest-xdist>=3.0",  # two cores run the tests
            "ray>=2.49",  # workers are started, and killed, in the slow tests
            "ruff>=0.9",
            "scikit-learn>=1.2",  # the demo runs in the tests
            "selenium>=4.11",  # a browser opens the page of a report; finds the driver beside the system's browser
            "setuptools>=70.1",  # makes wheels without the wheel package
            "sphinx>=7.3",
            "torchao>=0.15",  # PT2E workflows; IntxWeightOnlyConfig, the outside truth for weights
            "transformers>=4.46",  # GPT-2 in the tests of the pipeline
        ],
    },
)
