"""Everything that qexplore raises on purpose.

::

    QExploreError
    ├── SelectionError (ValueError)        a predicate selects nothing, or something that cannot be quantized
    ├── ModelError (TypeError)             a model that cannot be wrapped, or is no longer wrapped
    │   └── TraceError                     a network that cannot be taken apart into a graph
    ├── NumBitsError (ValueError)          a width, a float format or a vector of them that no quantizer can have
    │   └── OtherModelError                a point of a front for a model that it was not found on
    ├── CalibrationError (ValueError)      amax is missing, not finite, or cannot be had from the data
    ├── DataError (ValueError)             an empty, changing or unreadable data loader
    ├── MetricError (ValueError)           a metric that does not give what it promises
    ├── EvaluationError (RuntimeError)     candidates that cannot be evaluated
    ├── ProblemError (ValueError)          limits that contradict each other or cannot be reached
    ├── FrontError (ValueError)            a question that a front cannot answer
    │   ├── ReportError                    a picture that cannot be drawn
    │   └── FrontFileError                 a file that holds no front
    │       └── MissingFrontFileError (FileNotFoundError)  a file that is not there
    ├── StudyError (RuntimeError)          a study that cannot do what it was asked
    │   ├── StudyFileError (ValueError)    a file that holds no study, is damaged, or newer than this version
    │   │   ├── MissingStudyError (FileNotFoundError)  a file that is not there
    │   │   └── ExistingStudyError (FileExistsError)   a file that is there already, where a new one was to be made
    │   ├── StudyLockedError               somebody else is writing to it
    │   ├── StudyWriteError (OSError)      nothing can be written there: no room, no right to
    │   └── StudyMismatchError             measured under other conditions than those it is to go on with
    ├── WorkersError (RuntimeError)        workers that cannot be had, or do not measure as this process does
    ├── ConfigError (ValueError)       a configuration file with mistakes
    ├── WorkflowError (ValueError)         a workflow that the model, the data or the installed torch does not allow
    │   └── StackError                     a network that a stack stops at
    ├── ExportError (ValueError)           a model that cannot be written, or not so
    │   └── ManifestError                  a file that holds no widths manifest, or one of another model
    └── MissingPackageError (ImportError)  an optional package that is not installed

Each is also the built-in exception named beside it, so code that knows nothing of qexplore can catch it.
"""

from __future__ import annotations

from collections.abc import Sequence


class QExploreError(Exception):
    """Base of every error that qexplore raises on purpose."""


class SelectionError(QExploreError, ValueError):
    """A predicate selects nothing, or a module whose output cannot be quantized."""


class ModelError(QExploreError, TypeError):
    """A model that cannot be wrapped, is wrapped already, or is no longer wrapped."""


class NumBitsError(QExploreError, ValueError):
    """A width, a float format, or a vector of them, that the quantizers cannot have."""


class OtherModelError(NumBitsError):
    """A point of a front is given to a model that is not the one it was found on."""


class CalibrationError(QExploreError, ValueError):
    """A range (``amax``) is missing or not finite."""


class DataError(QExploreError, ValueError):
    """A data loader that is empty, changes between passes, or yields what cannot be unpacked."""


class MetricError(QExploreError, ValueError):
    """A metric that does not return one finite score per sample."""


class EvaluationError(QExploreError, RuntimeError):
    """Candidates that could not be evaluated."""


class ProblemError(QExploreError, ValueError):
    """Limits of a search that contradict each other or cannot be reached."""


class FrontError(QExploreError, ValueError):
    """A question that a front cannot answer."""


class ReportError(FrontError):
    """A picture that cannot be drawn, of a front or of anything else; a FrontError, as which it used to be raised."""


class FrontFileError(FrontError):
    """A file that does not hold a front this version can read."""


class MissingFrontFileError(FrontFileError, FileNotFoundError):
    """There is no such file."""


class StudyError(QExploreError, RuntimeError):
    """A study that cannot do what it was asked."""


class StudyFileError(StudyError, ValueError):
    """A file that holds no study, is damaged, or was written by a newer version."""


class MissingStudyError(StudyFileError, FileNotFoundError):
    """There is no such file."""


class ExistingStudyError(StudyFileError, FileExistsError):
    """There is a file already where a new study was to be made."""


class StudyLockedError(StudyError):
    """Another process, or another object of this one, is writing to the study."""


class StudyWriteError(StudyError, OSError):
    """Nothing can be written there: the disk is full, or the file or its folder may only be read."""


class StudyMismatchError(StudyError):
    """A study that was measured under other conditions than those it is to go on with."""


class WorkersError(QExploreError, RuntimeError):
    """Workers that cannot be had, cannot be sent what they need, or do not measure as this process does."""


class ConfigError(QExploreError, ValueError):
    """A configuration with mistakes; ``mistakes`` holds a sentence for each."""

    mistakes: tuple[str, ...] = ()

    @classmethod
    def of(cls, owner: str, mistakes: Sequence[str], unchecked: Sequence[str] = ()) -> ConfigError:
        """The error that names all ``mistakes`` of ``owner``: one in its line, several below each other.

        Fields that are ``unchecked``, because these mistakes stand in the way, are named behind them.
        """
        many = f"{owner} has {len(mistakes)} mistakes:" + "".join(f"\n  {one}" for one in mistakes)
        fields = ", ".join(f"`{one}`" for one in unchecked)
        after = f"\n  The names in {fields} are not checked before this is right" if unchecked else ""
        error = cls((f"{owner}: {mistakes[0]}" if len(mistakes) == 1 else many) + after)
        error.mistakes = tuple(mistakes)
        return error


class WorkflowError(QExploreError, ValueError):
    """A workflow that the model, the data, the engine or the installed torch does not allow."""


class StackError(WorkflowError):
    """A network that a stack stops at while it quantizes it; ``layer`` names where, empty where that is not known."""

    layer: str = ""


class TraceError(ModelError):
    """A network that cannot be taken apart into a graph."""


class ExportError(QExploreError, ValueError):
    """A model that cannot be written to a file, or not in the form that was asked for."""


class ManifestError(ExportError):
    """A file that holds no widths manifest, or that of another model."""


class MissingPackageError(QExploreError, ImportError):
    """An optional package is not installed."""


def first_line(error: BaseException) -> str:
    """The first line of what ``error`` says; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
