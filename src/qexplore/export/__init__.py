"""A quantized model as a file that others run: ONNX with a proof, and a manifest of widths."""

from qexplore.export.checker import TensorRTCheck, check_tensorrt
from qexplore.export.exporting import export_onnx
from qexplore.export.manifest import Manifest, load_manifest, save_manifest
from qexplore.export.report import ExportReport
