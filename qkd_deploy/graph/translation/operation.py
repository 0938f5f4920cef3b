"""One node of a graph as a module of its own, for PyTorch's exporter."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import chain
from typing import Any

from torch import Tensor, nn

from qkd_deploy.graph.ir import Node, Ref, substitute
from qkd_deploy.graph.ops import apply

_ANYWHERE = "module"
"""The path of modules without tensors, which leaves no trace in what they are translated to."""


class Operation(nn.Module):
    """One node as a module of its tensor operands; of the network it holds only the module that the node calls."""

    def __init__(self, network: nn.Module, node: Node) -> None:
        """Take a node, and what it calls; on the CPU, wherever the network is."""
        super().__init__()
        self.network = nn.Module()  # so that parameters are called "network.PATH" in the file
        self.node, self.operands, self.called = node, list(dict.fromkeys(node.inputs)), node.target
        if isinstance(node.target, str) and not node.method:
            module = _on_cpu(network.get_submodule(node.target))
            if _leaves_no_path(module):  # an activation function, say: it is the same wherever it is called
                self.node = replace(node, target=_ANYWHERE)
            *parents, name = str(self.node.target).split(".")
            holder = self.network
            for parent in parents:
                holder.add_module(parent, nn.Module())
                holder = holder.get_submodule(parent)
            holder.add_module(name, module)

    def forward(self, *tensors: Tensor) -> Any:
        """Compute the node from its operands, each given once."""
        known = dict(zip(self.operands, tensors, strict=True))

        def value(ref: Ref) -> Tensor:
            return known[ref.name]

        args, kwargs = substitute((self.node.args, self.node.kwargs), value)
        return apply(self.network, self.node, args, kwargs, training=False)


def _on_cpu(module: nn.Module) -> nn.Module:
    """The module itself, or a copy where it is on an accelerator."""
    tensors = chain(module.parameters(), module.buffers())
    return module if all(tensor.is_cpu for tensor in tensors) else copy.deepcopy(module).cpu()


def _leaves_no_path(module: nn.Module) -> bool:
    """True for modules of PyTorch's that hold no tensors: the path of a tensor is part of its name in the file.

    Those of a user's own may hold tensors that are neither parameters nor buffers.
    """
    known = all(type(part).__module__.partition(".")[0] == "torch" for part in module.modules())
    return known and next(module.parameters(), None) is None and next(module.buffers(), None) is None
