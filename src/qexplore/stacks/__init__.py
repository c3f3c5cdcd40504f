"""The stacks that turn a float network into integers: torch.ao's eager and FX, PT2E, onnxruntime; and float8."""

from qexplore.stacks.base import Converted, Data, Engine, LayerStrategy, Method, Settings
from qexplore.stacks.packed_linear import PackedLinear, float_rows, is_packable
from qexplore.stacks.registry import STACKS, StackRow, row_for, row_of_file
from qexplore.stacks.saving import ChosenModules
from qexplore.stacks.strategy import describe_weights, is_absent
from qexplore.stacks.torch_ao import check_engine, using_engine

__all__ = [
    "STACKS",
    "ChosenModules",
    "Converted",
    "Data",
    "Engine",
    "LayerStrategy",
    "Method",
    "PackedLinear",
    "Settings",
    "StackRow",
    "check_engine",
    "describe_weights",
    "float_rows",
    "is_absent",
    "is_packable",
    "row_for",
    "row_of_file",
    "using_engine",
]
