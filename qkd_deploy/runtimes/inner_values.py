"""Models that also return values from inside their graphs."""

from __future__ import annotations

from collections.abc import Mapping

import onnx


def with_outputs(model: onnx.ModelProto, values: Mapping[str, int]) -> onnx.ModelProto:
    """A copy of a model that also returns ``values``, by name and element type."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    known = {value.name for ends in (model.graph.input, model.graph.output) for value in ends}
    added = [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in values.items() if name not in known]
    extended.graph.output.extend(added)
    return extended
