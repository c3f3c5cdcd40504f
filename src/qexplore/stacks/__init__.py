"""The stacks that turn a float network into integers: torch.ao's eager and FX, PT2E, onnxruntime; and float8."""

from qexplore.stacks import reasons as reasons
from qexplore.stacks.already import refuse_quantized
from qexplore.stacks.base import Converted, Data, Engine, Method, Settings, StackFile, Step
from qexplore.stacks.layer import LayerStrategy, Stored, error_text, layer_table, listed
from qexplore.stacks.own_qconfigs import drop_qconfigs, left_out_by_qconfig, other_qconfigs
from qexplore.stacks.packed_linear import PackedLinear, float_rows, is_packable
from qexplore.stacks.registry import STACKS, StackRow, row_for, row_of_file
from qexplore.stacks.saving import ChosenModules
from qexplore.stacks.statistics import frozen_norms
from qexplore.stacks.stopping import is_of_user, of_user, stack_error
from qexplore.stacks.strategy import packed_strategy
from qexplore.stacks.torch_ao import check_engine, using_engine
from qexplore.stacks.trained import with_state
