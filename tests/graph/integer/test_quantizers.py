"""Every quantizer in a whole network: trained, frozen, exported and verified, copied and stored."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from deployment import noise
from torch import Tensor, nn

from qkd_deploy import UserError, export_onnx, freeze, initialize, prepare, verify_onnx
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.quantizers.base import Quantizer
from qkd_deploy.quantizers.ewgs_refresh import set_deltas
from qkd_deploy.quantizers.registry import QUANTIZERS
from qkd_deploy.training.loop.steps_optimizer import RelativeAdam

BITS = ("w8a8", "w4a4", "w2a2", "w2a8", "w2a32")
IMAGES, LABELS = noise(16, 3, 8, 8), torch.arange(16) % 5


class Residual(nn.Module):
    """A basic block, and a linear bottleneck whose residual sum and inner tensor are signed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.first, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.norm3 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm2(self.second(F.relu(self.norm1(self.first(x))))))
        x = x + self.project(self.norm3(self.depthwise(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def trained(name: str, bits: str, steps: int = 3) -> PreparedModel:
    torch.manual_seed(0)
    prepared = prepare(Residual(), bits, (IMAGES,), quantizer=name)
    initialize(prepared, IMAGES)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD(prepared.network_parameters(), lr=0.05, momentum=0.9)]
    learned = [*prepared.weight_steps(), *prepared.activation_steps()]
    if learned:
        optimizers.append(RelativeAdam(learned, lr=0.01))
    prepared.train()
    for _ in range(steps):
        F.cross_entropy(prepared(IMAGES), LABELS).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return prepared.eval()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_trained_networks_are_exported_and_verified(name: str, bits: str, tmp_path: Path) -> None:
    prepared = trained(name, bits)
    frozen = freeze(prepared)
    export_onnx(frozen, tmp_path / "model.onnx", metadata={"bits": bits, "placement": "integer"})
    report = verify_onnx(
        tmp_path / "model.onnx",
        inputs=IMAGES.numpy(),
        frozen=frozen,
        prepared=prepared,
        require_integer=bits != "w2a32",
        threads=(1,),
    )
    assert report.passed, str(report.levels)
    assert report.differing_codes == 0
    for node in prepared.layers():
        codes = prepared.weight(node).codes(prepared.network.get_submodule(str(node.target)).weight)
        assert len(codes.unique()) > 1, node.name
    if bits != "w2a32":
        assert {q.spec.signed for q in prepared.activations.values()} == {True, False}


@pytest.mark.parametrize("name", ["interval", "lsq"])
def test_two_bits_are_ternary(name: str) -> None:
    prepared = trained(name, "w2a32")
    assert not prepared.activations
    inner = [node for node in prepared.layers() if prepared.layer_bits[node.name].weight == 2]
    assert len(inner) == 4
    for node in inner:
        weight = prepared.network.get_submodule(str(node.target)).weight
        quantizer = prepared.weight(node)
        assert quantizer.codes(weight).unique().tolist() == [-1, 0, 1]
        for channel, step in zip(quantizer(weight).detach(), quantizer.scale().tolist(), strict=True):
            assert set(channel.unique().tolist()) <= {-step, 0.0, step}


def test_six_quantizers_end_in_six_different_networks() -> None:
    ends = [trained(name, "w4a4").network.state_dict()["first.weight"] for name in QUANTIZERS]
    for i, one in enumerate(ends):
        for other in ends[:i]:
            assert float((one - other).abs().max()) > 1e-4
    again = trained("ewgs", "w4a4").network.state_dict()["first.weight"]
    assert torch.equal(again, ends[list(QUANTIZERS).index("ewgs")])


def test_delta_changes_what_is_learned() -> None:
    def end(delta: float) -> Tensor:
        torch.manual_seed(0)
        prepared = prepare(Residual(), "w2a2", (IMAGES,), quantizer="ewgs")
        initialize(prepared, IMAGES)
        set_deltas(prepared, delta)
        F.cross_entropy(prepared.train()(IMAGES), LABELS).backward()
        gradient = prepared.network.get_submodule("first").weight.grad
        assert isinstance(gradient, Tensor)
        return gradient

    assert torch.equal(end(0.0), end(0.0))
    assert not torch.equal(end(0.5), end(0.0))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_prepared_models_are_copied_and_stored_without_loss(name: str) -> None:
    prepared = trained(name, "w4a4", steps=1)
    if name == "ewgs":
        set_deltas(prepared, 0.25)
    stored = io.BytesIO()
    torch.save(prepared.state_dict(), stored)
    stored.seek(0)
    fresh = prepare(Residual(), "w4a4", (IMAGES,), quantizer=name)
    fresh.load_state_dict(torch.load(stored, weights_only=True))
    expected = freeze(prepared)(IMAGES)
    for twin in (copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared)), fresh.eval()):
        assert torch.equal(twin(IMAGES), prepared(IMAGES))
        assert torch.equal(freeze(twin)(IMAGES), expected)
        twin.train()(IMAGES).sum().backward()
        prepared.train()(IMAGES).sum().backward()
        for (key, one), (_, two) in zip(prepared.named_parameters(), twin.named_parameters(), strict=True):
            assert one.grad is not None and two.grad is not None
            assert torch.equal(one.grad, two.grad), key
        prepared.zero_grad()
        prepared.load_state_dict(torch.load(io.BytesIO(stored.getvalue()), weights_only=True))  # running statistics
        prepared.eval()


@pytest.mark.parametrize("name", QUANTIZERS)
def test_pixels_keep_their_fixed_quantizer(name: str) -> None:
    prepared = prepare(Residual(), "w4a4", (IMAGES,), quantizer=name, input_quantization=(1 / 64, 128))
    initialize(prepared, IMAGES)
    pixels = prepared.activation("x")
    assert pixels.fixed and float(pixels.scale()) == 1 / 64 and not pixels.learned()
    kinds = {type(q) for q in prepared.modules() if isinstance(q, Quantizer) and not q.fixed}
    assert kinds == {QUANTIZERS[name].weight, QUANTIZERS[name].activation}
    differences = {QUANTIZERS[name].weight.difference, QUANTIZERS[name].activation.difference} - {""}
    assert set(prepared.differences()) == differences


def test_unknown_quantizers_are_refused() -> None:
    with pytest.raises(UserError, match=r"quantizer is 'packt'; did you mean 'pact'\? choose one of interval, lsq, "):
        prepare(Residual(), "w4a4", (IMAGES,), quantizer="packt")
