"""A quantized model as a file that others run: ONNX with a proof, and a manifest of widths."""
