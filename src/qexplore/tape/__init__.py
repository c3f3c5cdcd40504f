"""A recording of one forward, operation by operation."""

from qexplore.tape.operation import Operation
from qexplore.tape.reading import Given, Read
from qexplore.tape.recording import recording
from qexplore.tape.tape import Tape
from qexplore.tape.values import Sources, Value
