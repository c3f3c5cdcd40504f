"""A quantized model as a file that others run: ONNX with a proof, and a manifest of widths."""

from qexplore.export.checker import TensorRTCheck, check_tensorrt

__all__ = ["TensorRTCheck", "check_tensorrt"]
