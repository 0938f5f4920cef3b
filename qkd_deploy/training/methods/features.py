"""The penultimate feature of a network, for feature distillation (QFD).

A feature is what the last layer reads: pooled and flat, [N, C]. Another place can be named by the path of a module,
whose output then is the feature, averaged over positions, or, for tasks whose answers have places, as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.bits import TensorSpec
from qkd_deploy.errors import UserError
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.modes import evaluating
from qkd_deploy.graph.prepared import PreparedModel
from qkd_deploy.quantizers.scale_search import initial_scale
from qkd_deploy.quantizers.step import StepQuantizer
from qkd_deploy.training.loop.answers import WithFeature
from qkd_deploy.training.methods.feature_points import input_of_last_layer, last_layer, module_at, output_of_module


class QuantizedFeatureTeacher(nn.Module):
    """A full-precision network whose feature alone is quantized, with a learned step; returns a ``WithFeature``.

    Args:
        network: the teacher; it is called, not copied.
        point: module whose output is the feature; "" for the input of the last layer.
        bits: of the feature.
        images: a batch that says which layer is the last, and where the step starts.
        pools: the output of a module is averaged over positions.

    Raises:
        UserError: ``point`` names no module, or one that makes no tensor.
    """

    def __init__(self, network: nn.Module, point: str, bits: int, images: Tensor, *, pools: bool = True) -> None:
        super().__init__()
        self.network = network
        self._point, self._pools = point, pools
        self._feature: Any = None
        self.quantizer: StepQuantizer | None = None
        module = module_at(network, point) if point else last_layer(network, images)
        if point:
            module.register_forward_hook(lambda module, args, output: self._quantize(output))
        else:
            module.register_forward_pre_hook(lambda module, args: (self._quantize(args[0]), *args[1:]))
        feature = _seen(self, images)
        self.quantizer = StepQuantizer(_feature_grid(bits, feature)).to(images.device)
        self.quantizer.set_scale(initial_scale(feature, self.quantizer.spec))
        self.shape = feature.shape[1:]

    def forward(self, images: Tensor) -> WithFeature:
        """Compute the network's answer and the quantized feature [N, C], or [N, ...] where nothing is pooled."""
        answer = self.network(images)
        feature, self._feature = self._feature, None
        return WithFeature(answer, _flat(feature, self._point, "teacher", "--teacher-feature-point", pools=self._pools))

    def _quantize(self, value: Any) -> Any:
        self._feature = value if self.quantizer is None else self.quantizer(value)
        return self._feature

    def weight_steps(self) -> list[nn.Parameter]:
        """Give none: the weights are in full precision."""
        return []

    def activation_steps(self) -> list[nn.Parameter]:
        """Give the step of the feature."""
        assert self.quantizer is not None
        return self.quantizer.learned()

    def network_parameters(self) -> list[nn.Parameter]:
        """Give the network's own parameters."""
        return list(self.network.parameters())


class FeatureStudent(nn.Module):
    """A prepared network that also returns its feature, before quantization, in a ``WithFeature``.

    Where student and teacher have features of different lengths, a linear projection, which is trained and then
    thrown away, compares them; at every place of a map, where features are maps.

    Args:
        prepared: the student; it is called, not copied.
        point: module whose output is the feature; "" for the input of the last layer.
        teacher_shape: of the teacher's feature, without the batch.
        images: a batch, to see how long the student's is.
        pools: as for the teacher.

    Raises:
        UserError: ``point`` names no module whose output exists apart in the prepared graph, or one whose output has
            other places than the teacher's.
    """

    def __init__(
        self, prepared: PreparedModel, point: str, teacher_shape: torch.Size, images: Tensor, *, pools: bool = True
    ) -> None:
        super().__init__()
        self.prepared = prepared
        self._point, self._pools = point, pools
        self._node = output_of_module(prepared, point) if point else input_of_last_layer(prepared)
        self.projection: nn.Module = nn.Identity()
        shape = _seen(self, images).shape[1:]
        if shape[1:] != teacher_shape[1:]:
            raise UserError(
                f"the feature {point!r} has the shape {list(shape)} in the student and {list(teacher_shape)} in the "
                "teacher, whose places cannot be compared; name another --teacher-feature-point"
            )
        if shape != teacher_shape:
            self.projection = _projection(shape, teacher_shape[0]).to(images.device)

    def forward(self, images: Tensor) -> WithFeature:
        """Compute the network's answer and the feature, projected to the teacher's length."""
        found: list[Tensor] = []

        def observe(node: Node, value: Any) -> None:
            if node.name == self._node:
                found.append(value)

        answer = self.prepared.run_observed((images,), observe)
        feature = _flat(found[0], self._point, "student", "--feature-point", pools=self._pools)
        return WithFeature(answer, self.projection(feature))

    def weight_steps(self) -> list[nn.Parameter]:
        """Give those of the prepared network."""
        return self.prepared.weight_steps()

    def activation_steps(self) -> list[nn.Parameter]:
        """Give those of the prepared network."""
        return self.prepared.activation_steps()

    def network_parameters(self) -> list[nn.Parameter]:
        """Give those of the prepared network and of the projection."""
        return [*self.prepared.network_parameters(), *self.projection.parameters()]


def _projection(shape: torch.Size, length: int) -> nn.Module:
    """A linear map of features to another length, at every place of a map."""
    if len(shape) == 3:
        return nn.Conv2d(shape[0], length, 1, bias=False)
    return nn.Linear(shape[0], length, bias=False)


def _flat(feature: Any, point: str, role: str, option: str, *, pools: bool) -> Tensor:
    """Make [N, C] of a feature: that of a named module is averaged over positions, the last layer's input laid flat.

    Where nothing is pooled, a map [N, C, H, W] stays as it is.

    Raises:
        UserError: a named module makes no tensor of at least two dimensions; says the option that names it.
    """
    if not isinstance(feature, Tensor) or feature.dim() < 2:
        raise UserError(
            f"the module {point!r} of the {role} makes no feature [N, C] or [N, C, H, W]; name another {option}"
        )
    if not pools and feature.dim() == 4:
        return feature
    if point and feature.dim() > 2:
        return feature.flatten(2).mean(2)
    return feature.flatten(1)


@torch.no_grad()
def _seen(network: nn.Module, images: Tensor) -> Tensor:
    """Compute the feature [N, C] of a batch in evaluation mode."""
    with evaluating(network):
        feature = network(images).feature
    assert isinstance(feature, Tensor)
    return feature


def _feature_grid(bits: int, feature: Tensor) -> TensorSpec:
    """Choose the codes of a feature: unsigned where it has no negative value."""
    if bool((feature >= 0).all()):
        return TensorSpec.activation(bits, signed=False)
    if bits == 1:  # one bit with a sign needs a code on both sides of zero
        return TensorSpec(2, True, 1, -1, 1)
    return TensorSpec.activation(bits, signed=True)
