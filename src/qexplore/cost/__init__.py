"""What a candidate costs."""

from qexplore.cost.additive import AdditiveTable
from qexplore.cost.base import CheckedCost, Choices, Cost, Costs, SeparableCost
from qexplore.cost.bits import MeanBits, TotalBits, WeightedBits
from qexplore.cost.build import ADDITIVE_NAMES, COST_NAMES, build_costs
from qexplore.cost.memory import ActivationBytes, ModelBits, ModelBytes, PeakActivationBytes
from qexplore.cost.moments import Moments
from qexplore.cost.observation import Groups, Observed, count_macs, observe, unite
from qexplore.cost.operations import Bops, Operations
from qexplore.cost.reach import cheapest, marginal_costs, one_by_one
from qexplore.cost.table import BoundTable, CostTable
