"""The guided pipeline: one network led from float to quantized."""

from qexplore.pipeline.dialogue import Dialogue, Transcript
from qexplore.pipeline.loading import NAMES, load_subject
from qexplore.pipeline.options import Options
from qexplore.pipeline.run import PipelineResult, run_pipeline
from qexplore.pipeline.subject import Subject

__all__ = [
    "NAMES",
    "Dialogue",
    "Options",
    "PipelineResult",
    "Subject",
    "Transcript",
    "load_subject",
    "run_pipeline",
]
