"""What is done to a float network before it is quantized: folding, equalizing, correcting, own modules, tables."""

from qexplore.preparation.batchnorm import BatchNormReport, recalibrate_batchnorm
from qexplore.preparation.bias_correction import BiasCorrectionReport, correct_biases, remove_bias_corrections
from qexplore.preparation.connections import Connections, check_example, module_of, only_describes, outputs_of
from qexplore.preparation.equalization import EqualizationReport, equalize
from qexplore.preparation.folding import (
    FoldReport,
    copied_network,
    fold_batchnorm,
    replace_everywhere,
    require_equal,
)
from qexplore.preparation.graph_optimization import FoldedPair, GraphOptimization, optimize_graph
from qexplore.preparation.graph_table import GraphTable, graph_table
from qexplore.preparation.own_modules import OwnModulesReport, as_graph_module, give_own_modules, trace_network
from qexplore.preparation.unrolling import unroll_recurrent
from qexplore.preparation.writes import read_past_writes, reads_what_was_written, take_out_writes
