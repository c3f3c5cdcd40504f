"""Remembering: one file that holds what an exploration measured, whatever happens to the process."""

from qexplore.study.fingerprint import contents_of, measured_by, mismatches, require_same
from qexplore.study.merging import merge
from qexplore.study.opening import opened_for
from qexplore.study.progress import RunProgress, Spent
from qexplore.study.recording import Recorder
from qexplore.study.records import Columns, Event, Part, RunRecord, Stored, StoredSnapshot
from qexplore.study.recovery import Recovery, recover
from qexplore.study.runs import NOTES, WAY, Standing, StudyRun, place_of
from qexplore.study.store import Store
from qexplore.study.study import Study
from qexplore.study.table import EvaluationTable
