"""What operations that stay in float are in ONNX: one translation each, made and tried when a network is prepared."""
