"""What an ONNX file must be before anything is done with it."""
