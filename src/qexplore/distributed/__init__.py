"""The evaluators of a problem on many machines: who measures, what is sent, and what happens when a machine is lost."""

from qexplore.distributed.cluster import Cluster, seen_cluster
from qexplore.distributed.dispatch import Crew, Dispatcher, Lost, Reply
from qexplore.distributed.division import divided
from qexplore.distributed.evaluator import Spread, spread
from qexplore.distributed.ray_workers import RayWorkers
from qexplore.distributed.records import WorkerRecord, WorkersReport
from qexplore.distributed.tasks import Answer, Task
