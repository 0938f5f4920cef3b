"""Where a network takes another path in train than in eval mode."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Any

from torch import fx

from qkd_deploy.graph.ops import contract


def owner(node: fx.Node) -> str:
    """Path of the innermost user module whose forward made a node; "" for the network itself."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    if node.op == "call_module" and stack and stack[-1] == node.target:
        stack.pop()
    return str(stack[-1]) if stack else ""


def differences(train: fx.Graph, evaluated: fx.Graph) -> dict[str, str]:
    """Paths of the modules that read ``self.training``, with the line of the first step that differs.

    Steps are aligned, so that one comparison finds many such modules.
    """
    one, two = ([node for node in graph.nodes if node.op != "output"] for graph in (train, evaluated))
    keys: list[list[Any]] = [[_key(node) for node in nodes] for nodes in (one, two)]
    found: dict[str, str] = {}
    for tag, i, i_end, j, j_end in SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_opcodes():
        if tag != "equal":
            first = [*one[i:i_end][:1], *two[j:j_end][:1]]
            deepest = max(first, key=lambda node: owner(node).count(".") + bool(owner(node)))
            found.setdefault(owner(deepest), str(deepest.meta.get("line", "")))
    return found


def _key(node: fx.Node) -> Any:
    """What makes two steps the same: the call, who made it, and its literal arguments."""
    if node.op == "get_attr":
        return node.op, str(node.target)
    literals = "" if _is_dropout(node) else str(fx.node.map_arg((node.args, _literal_options(node)), lambda n: "·"))
    return node.op, node.target, owner(node), literals


def _is_dropout(node: fx.Node) -> bool:
    return node.op == "call_function" and contract.TORCH_OPS.get(node.target) == "dropout"


def _literal_options(node: fx.Node) -> dict[str, Any]:
    """Keyword arguments; dropout inside attention differs between the modes and is no reason to keep it whole."""
    return {key: value for key, value in node.kwargs.items() if key != "dropout_p"}
