"""The one door to ONNX files: writing a network with torch, running a file with onnxruntime."""
