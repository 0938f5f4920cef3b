"""Single changes of an exported model, each by chance; they return the name of what they changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper

from qkd_deploy.export.metadata import PREFIX

Mutation = Callable[[onnx.ModelProto, np.random.Generator], str]


def set_constant(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> str:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    old = numpy_helper.to_array(tensor)
    new = np.asarray(change(old.copy()), old.dtype)
    assert new.tobytes() != old.tobytes()
    tensor.CopyFrom(numpy_helper.from_array(new, name))
    return name


def any_constant(model: onnx.ModelProto, rng: np.random.Generator, suffix: str) -> str:
    return str(rng.choice([t.name for t in model.graph.initializer if t.name.endswith(suffix)]))


def one_step(model: onnx.ModelProto, rng: np.random.Generator, suffix: str) -> str:
    def change(array: np.ndarray) -> np.ndarray:
        at = tuple(int(rng.integers(size)) for size in array.shape)
        array[at] += 1 if array[at] < np.iinfo(array.dtype).max else -1
        return array

    return set_constant(model, any_constant(model, rng, suffix), change)


def one_ulp(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    def change(array: np.ndarray) -> np.ndarray:
        at = tuple(int(rng.integers(size)) for size in array.shape)
        array[at] = np.nextafter(array[at], np.float32(rng.choice([0, 9])))
        return array

    return set_constant(model, any_constant(model, rng, "scale"), change)


def weight_code(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    return one_step(model, rng, ".weight")


def bias(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    return one_step(model, rng, ".bias")


def zero_point(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    return one_step(model, rng, "zero_point")


def clip_bound(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    return one_step(model, rng, str(rng.choice([".lo", ".hi"])))


def swapped_channels(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    def change(array: np.ndarray) -> np.ndarray:
        first, second = rng.choice(len(array), 2, replace=False)
        array[[first, second]] = array[[second, first]]
        return array

    return set_constant(model, any_constant(model, rng, ".weight"), change)


def removed_node(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Remove a node with one reader and connect what it read to that reader, where this makes a valid graph."""
    removable = [n for n in model.graph.node if n.op_type in ("Clip", "MaxPool")]
    node = removable[int(rng.integers(len(removable)))]
    for other in model.graph.node:
        for index, name in enumerate(other.input):
            if name == node.output[0]:
                other.input[index] = node.input[0]
    model.graph.node.remove(node)
    return node.name


def dropped_node(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    node = model.graph.node[int(rng.integers(len(model.graph.node)))]
    model.graph.node.remove(node)
    return node.name


def attribute(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    padded = [n for n in model.graph.node if any(a.name == "pads" and a.ints[0] for a in n.attribute)]
    node = padded[int(rng.integers(len(padded)))]
    pads = next(a for a in node.attribute if a.name == "pads")
    pads.ints[0], pads.ints[2] = 0, pads.ints[0] + pads.ints[2]
    return node.name


def rewired(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    sums = [n for n in model.graph.node if n.op_type == "Add" and n.input[0] != n.input[1]]
    node = sums[int(rng.integers(len(sums)))]
    node.input[0] = node.input[1]
    return node.name


MUTATIONS = [
    weight_code, bias, zero_point, clip_bound, one_ulp,
    swapped_channels, removed_node, dropped_node, attribute, rewired,
]  # fmt: skip


def remove_digests(model: onnx.ModelProto) -> None:
    kept = [prop for prop in model.metadata_props if prop.key != PREFIX + "digests"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
