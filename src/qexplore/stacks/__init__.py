"""The stacks that turn a float network into integers: torch.ao's eager and FX, PT2E, onnxruntime."""

from qexplore.stacks.base import Converted, Data, Engine, LayerStrategy, Method, Settings, Stack
from qexplore.stacks.feeding import Feeding, feeding_of
from qexplore.stacks.packed_linear import PackedLinear, float_rows, is_packable
from qexplore.stacks.saving import ChosenModules, read_state, write_state
from qexplore.stacks.strategy import describe_weights, is_absent
from qexplore.stacks.torch_ao import quiet

__all__ = [
    "ChosenModules",
    "Converted",
    "Data",
    "Engine",
    "Feeding",
    "LayerStrategy",
    "Method",
    "PackedLinear",
    "Settings",
    "Stack",
    "describe_weights",
    "feeding_of",
    "float_rows",
    "is_absent",
    "is_packable",
    "quiet",
    "read_state",
    "write_state",
]
