"""Frozen model -> ONNX with FakeQuantize, in the form of which OpenVINO's CPU plugin makes exact integer kernels.

All tensors are codes: a FakeQuantize maps a range of 256 integers to itself, so that no scale stands between a layer
and its operand, and the plugin's transformations have nothing to fold that rounds.
"""
