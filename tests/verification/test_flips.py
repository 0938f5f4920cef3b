"""Golden results behind float operators: roundings may fall otherwise on another CPU, constants may not change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from mutations import copy_of, set_constant
from torch import Tensor, nn

from qkd_deploy import initialize, prepare
from qkd_deploy.export.metadata import Golden, GoldenOutput, array_digest, read_metadata
from qkd_deploy.export.onnx_export import build_model
from qkd_deploy.verification.checks.golden import golden_differences
from qkd_deploy.verification.compare import output_difference
from qkd_deploy.verification.model_under_test import ModelUnderTest


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.d, self.o = conv(3, 8), conv(8, 8, 2), conv(16, 8), nn.Conv2d(8, 2, 1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.a(x))
        return self.o(torch.relu(self.d(torch.cat([a, self.up(torch.relu(self.b(a)))], 1)))).sigmoid()


def smooth() -> nn.Module:
    up = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=True)
    return nn.Sequential(conv(3, 8, 2), nn.ReLU(), conv(8, 8, 2), up, conv(8, 8), nn.ReLU(), conv(8, 4))


def transposed() -> nn.Module:
    return nn.Sequential(conv(3, 16, 2), nn.ReLU(), nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.ReLU(), conv(16, 8))


def pooled() -> nn.Module:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(conv(3, 16, 2), nn.GroupNorm(4, 16), nn.ReLU(), conv(16, 8, 2), nn.ReLU(), head)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "smooth upsampling": smooth,
    "U-Net": UNet,
    "transposed convolution": transposed,
    "group norm": pooled,
}


@pytest.fixture(scope="module", params=NETWORKS)
def model(request: pytest.FixtureRequest) -> onnx.ModelProto:
    torch.manual_seed(0)
    network, x = NETWORKS[request.param]().eval(), torch.randn(2, 3, 32, 32)
    prepared = prepare(network, "w8a8", (x,))
    initialize(prepared, x)
    return build_model(prepared.eval())[0]


def golden_of(subject: ModelUnderTest) -> Golden:
    assert subject.metadata.golden is not None
    return subject.metadata.golden


def feeds_of(subject: ModelUnderTest) -> dict[str, np.ndarray]:
    return {subject.model.graph.input[0].name: golden_of(subject).inputs[0]}


def recorded_elsewhere(subject: ModelUnderTest, seed: int, steps: float) -> Golden:
    """Golden results as a CPU that rounds otherwise would have recorded them."""
    golden = golden_of(subject)
    run = subject.reference.run(feeds_of(subject), moved=(np.random.default_rng(seed), steps))
    codes = subject.by_tensor(run.codes)
    digests = {name: array_digest(codes[name]) if name in codes else known for name, known in golden.codes.items()}
    return replace(golden, codes=digests, outputs=tuple(map(GoldenOutput.of, run.outputs.values())))


def recorded_here(subject: ModelUnderTest) -> Golden:
    """Golden results as a file has them that was written where it is verified: no rounding falls otherwise."""
    outputs, codes = subject.session().run(feeds_of(subject))
    digests = {name: array_digest(array) for name, array in subject.by_tensor(codes).items()}
    return replace(golden_of(subject), codes=digests, outputs=tuple(map(GoldenOutput.of, outputs.values())))


def test_roundings_that_fall_otherwise_are_no_differences(model: onnx.ModelProto) -> None:
    subject = ModelUnderTest(model, read_metadata(model))
    farthest, whole = 0.0, golden_of(subject).outputs[0].values
    for seed in range(3):
        elsewhere = recorded_elsewhere(subject, seed, 2e-4)
        farthest = max(farthest, output_difference(elsewhere.outputs[0].values, GoldenOutput.of(whole).values))
        assert golden_differences(subject, elsewhere) == []
    assert golden_differences(subject, golden_of(subject)) == []
    if "ConvTranspose" in {node.op_type for node in model.graph.node}:
        assert farthest > 1e-3  # the case is the one meant


def one_step(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Change one integer of one constant by one."""
    kinds = (onnx.TensorProto.INT8, onnx.TensorProto.INT32, onnx.TensorProto.UINT8)
    names = [tensor.name for tensor in model.graph.initializer if tensor.data_type in kinds]

    def change(array: np.ndarray) -> np.ndarray:
        at = tuple(int(rng.integers(size)) for size in array.shape)
        array[at] += 1 if array[at] < np.iinfo(array.dtype).max else -1
        return array

    return set_constant(model, str(rng.choice(names)), change)


def test_changed_constants_are_found_behind_float_operators(model: onnx.ModelProto) -> None:
    """Where whoever changed them made the digests anew: all that shows in outputs by more than 1e-4 of their range."""
    metadata, found = read_metadata(model), 0
    golden = recorded_here(ModelUnderTest(model, metadata))
    for seed in range(10):
        changed = copy_of(model)
        name = one_step(changed, np.random.default_rng(seed))
        subject = ModelUnderTest(changed, metadata)
        outputs, _ = subject.session().run(feeds_of(subject))
        (output,), (recorded,) = outputs.values(), golden.outputs
        if output_difference(recorded.part_of(output), recorded.values) > 1e-4:
            assert golden_differences(subject, golden), name
            found += 1
    assert found


def test_outputs_that_no_flip_explains_are_found(model: onnx.ModelProto) -> None:
    """A whole channel that moves a little, and one place that moves far, beside flips that are allowed."""
    subject = ModelUnderTest(model, read_metadata(model))
    elsewhere = recorded_elsewhere(subject, 0, 2e-4)
    output = elsewhere.outputs[0].values
    channel, place = output.copy(), output.copy()
    channel[:, 0] += 0.004 * np.abs(output).max()
    place.flat[7] += 0.5 * np.abs(output).max()
    for altered in (channel, place):
        recorded = replace(elsewhere.outputs[0], values=altered)
        assert golden_differences(subject, replace(elsewhere, outputs=(recorded,)))
