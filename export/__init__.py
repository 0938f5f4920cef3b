"""Export of frozen models to ONNX."""
