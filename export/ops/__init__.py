"""How every kind of node is written in ONNX."""
