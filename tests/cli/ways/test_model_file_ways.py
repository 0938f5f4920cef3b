"""Ways out of mistakes with the files of networks: weights, checkpoints and ONNX files."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from command_ways import Line, command, follow, full_disk, renames, require_all, runs
from onnx import TensorProto, helper

from qkd_deploy.bench.benchmark import bench
from qkd_deploy.errors import UserError

TEST = "tests/cli/ways/test_model_file_ways.py::test_the_way_out_works"
CALIBRATE = "--calibrate data.npz --calibrate-images 8 --bits w8a8"
TRAIN = "train --dataset data.npz --method qat --epochs 1 --batch-size 20 --init float.pt --out new"
OWN = "new/checkpoints/student-float.pt"
TRAIN_OWN = "train --dataset data.npz --method qat --epochs 1 --pretrain-epochs 1 --model own:net --out new"
SENSITIVITY = "--sensitivity --limit 8"
BENCH = "bench model.onnx --rounds 1"


def weights_alone(folder: Path) -> None:
    content = torch.load(folder / "float.pt", weights_only=True)
    torch.save(content["state_dict"], folder / "alone.pt")


def pairs_of_images(folder: Path) -> None:
    """A file of somebody else's that takes two images at a time."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "pairs",
        [value("x", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [value("y", TensorProto.FLOAT, [2, 64])],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [2, 64])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "pairs.onnx"
    )


def lose_weights(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    next(node for node in model.graph.node if node.name.startswith("features.4.weight/")).name = "elsewhere"
    onnx.save(model, folder / "model.onnx")


WAYS = {
    "an impossible path": Line(
        "export model.pt --output data.npz/m.onnx", "choose another path", "export model.pt --output new/m.onnx"
    ),
    "fp32 of nothing": Line(
        f"{BENCH} --against fp32", "is the network of the checkpoint", f"{BENCH} --against fp32 --checkpoint model.pt"
    ),
    "a file for other batches": Line(
        f"{BENCH} --against pairs.onnx",
        "try another --batch or file",
        f"{BENCH} --against pairs.onnx --batch 2",
        before=pairs_of_images,
    ),
    "a file that cannot be run": Line(
        f"{BENCH} --against pairs.onnx",
        "try another --batch or file",
        f"{BENCH} --against model.onnx",
        before=pairs_of_images,
    ),
    "nothing that was replaced": Line(
        f"{BENCH} --checkpoint model.pt --against unreplaced",
        "no activation function of {} was replaced",
        f"{BENCH} --checkpoint model.pt --against fp32",
    ),
    "other bits": Line(
        "export model.pt --bits w8a8", "was trained at", "export model.pt --bits w4a4", advice="use --bits w4a4"
    ),
    "other bits that are trained": Line(
        "export model.pt --bits w8a8",
        "was trained at",
        "export new/model.pt --bits w8a8",
        mend=runs(f"{TRAIN} --model plaincnn --bits w8a8"),
        advice="or train at w8a8",
    ),
    "what was exported": Line("export model.onnx", "is no checkpoint by its name", "export run/model.pt"),
    "the checkpoint as output": Line(
        "export model.pt --output model.pt", "is the checkpoint itself", "export model.pt --output new.onnx"
    ),
    "weights as output": Line(
        f"export new.quantized.pt --output new.onnx {CALIBRATE}",
        "would be replaced by the quantized checkpoint",
        f"export new.quantized.pt --output other.onnx {CALIBRATE}",
        before=renames("float.pt", "new.quantized.pt"),
    ),
    "a quantized network to calibrate": Line(
        "export model.pt --calibrate data.npz --bits w4a4", "is quantized already", "export model.pt --bits w4a4"
    ),
    "a quantized network instead of its weights": Line(
        f"export model.pt {CALIBRATE}", "is quantized already", f"export float.pt {CALIBRATE}"
    ),
    "weights of an unknown network": Line(
        f"inspect alone.pt {SENSITIVITY} --dataset data.npz",
        "name the network they belong to",
        f"inspect alone.pt {SENSITIVITY} --dataset data.npz --model plaincnn",
        before=weights_alone,
    ),
    "weights without images": Line(
        f"inspect alone.pt {SENSITIVITY} --model plaincnn",
        "say on which images to measure",
        f"inspect alone.pt {SENSITIVITY} --model plaincnn --dataset data.npz",
        before=weights_alone,
    ),
    "code that a file names": Line(
        f"inspect {OWN} {SENSITIVITY}",
        "to allow importing that code",
        f"inspect {OWN} {SENSITIVITY} --model own:net",
        before=runs(TRAIN_OWN),
        advice="name it again: --model own:net",
    ),
    "rounded weights": Line(
        f"inspect model.onnx {SENSITIVITY}", "holds rounded weights", f"inspect model.pt {SENSITIVITY}"
    ),
    "a network for what has its own": Line(
        "inspect model.onnx --model plaincnn", "so --model has no meaning for it", "inspect model.onnx"
    ),
    "lost weights": Line(
        "inspect model.onnx",
        "the file lacks the weights of",
        "inspect model.onnx",
        before=lose_weights,
        mend=runs("export model.pt"),
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_way_out_works(folder: Path, name: str) -> None:
    follow(WAYS[name], folder, TEST)


def test_every_sentence_has_a_row() -> None:
    require_all(WAYS, TEST)


def test_freed_space_is_enough(folder: Path) -> None:
    with full_disk(20_000):
        done = command("export model.pt --output new/m.onnx", folder)
    assert done.err == "Error: cannot write new/m.onnx: File too large; choose another path or free some space\n"
    assert command("export model.pt --output new/m.onnx", folder).code == 0


@pytest.mark.parametrize("name", ["threads", "batch", "rounds"])
def test_one_of_everything_is_enough_to_measure(small: Path, name: str) -> None:
    few = {"threads": 1, "batch": 1, "rounds": 1}
    with pytest.raises(UserError, match=f"{name} is 0; give 1 or more"):
        bench(small / "model.onnx", **{**few, name: 0})
    assert bench(small / "model.onnx", **few).models["integer"].latency > 0
