"""The parameters of a network, sorted by how they want to be moved."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import nn

from qkd_deploy.errors import UserError
from qkd_deploy.graph.integer.given import unwrapped

Groups = list[dict[str, Any]]


@runtime_checkable
class HasSteps(Protocol):
    """A prepared network: its quantization steps are learned apart from its other parameters."""

    def weight_steps(self) -> list[nn.Parameter]:
        """What is learned of the weights' steps."""

    def activation_steps(self) -> list[nn.Parameter]:
        """What is learned of the activations' steps."""

    def network_parameters(self) -> list[nn.Parameter]:
        """All other parameters."""


class ParameterGroups(NamedTuple):
    """Parameter groups, each with its own ``lr``.

    Attributes:
        weights: for any optimizer; those of two or more dimensions decay, the others do not.
        steps: for ``RelativeAdam``; empty for a network without quantizers.
    """

    weights: Groups
    steps: Groups


def parameter_groups(
    network: nn.Module,
    lr: float,
    *,
    weight_decay: float = 0.0,
    weight_step_ratio: float = 0.01,
    activation_step_ratio: float = 1.0,
) -> ParameterGroups:
    """Make the parameter groups of a prepared network, or of an ordinary one such as a teacher.

        groups = parameter_groups(prepared, lr=0.01, weight_decay=1e-4)
        optimizers = torch.optim.SGD(groups.weights, momentum=0.9), RelativeAdam(groups.steps)

    Args:
        network: a model from ``prepare``, or any module; wrapped (compiled, for several devices) or not.
        lr: learning rate of the weights.
        weight_decay: of weights; never of biases, normalisation and steps.
        weight_step_ratio: relative movement of weight steps per iteration, over ``lr``.
        activation_step_ratio: the same for activation steps.

    Raises:
        UserError: no network.
    """
    network = _network_of(network)
    parameters = weights_of(network)
    steps: Groups = []
    if isinstance(network, HasSteps):
        steps = [
            {"params": network.weight_steps(), "lr": lr * weight_step_ratio},
            {"params": network.activation_steps(), "lr": lr * activation_step_ratio},
        ]
    weights: Groups = [
        {"params": [p for p in parameters if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]
    return ParameterGroups(_filled(weights), _filled(steps))


def _network_of(network: object) -> nn.Module:
    """The network itself: in a wrapper, steps would pass for weights."""
    inside = unwrapped(network)
    if not isinstance(inside, nn.Module):
        raise UserError(f"parameter_groups takes a network, not {type(inside).__name__}; pass what prepare returned")
    return inside


def weights_of(network: nn.Module) -> list[nn.Parameter]:
    """List all parameters of a network that are no quantization steps, in the network's own order."""
    return network.network_parameters() if isinstance(network, HasSteps) else list(network.parameters())


def _filled(groups: Groups) -> Groups:
    return [group for group in groups if group["params"]]
