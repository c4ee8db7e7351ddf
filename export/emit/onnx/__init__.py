"""The ONNX model."""
