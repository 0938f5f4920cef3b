"""Frozen integer graphs as ``.tflite`` flatbuffers, in the form that XNNPACK computes exactly."""
