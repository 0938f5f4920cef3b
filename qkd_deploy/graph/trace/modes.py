"""Finding the modules in which a network takes another path in train than in eval mode."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

DROPOUT_FUNCTIONS = (
    *(F.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout, F.feature_alpha_dropout),
    torch.dropout,
)
"""Functions whose ``training`` argument differs between the modes, and may."""


def owner(node: fx.Node) -> str:
    """Return the path of the innermost user module whose forward made a node; "" for the network itself."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    if node.op == "call_module" and stack and stack[-1] == node.target:
        stack.pop()
    return str(stack[-1]) if stack else ""


@dataclass(frozen=True)
class Difference:
    """How a module differs between the modes.

    Attributes:
        line: of the first step that differs.
        more: eval mode only computes more, such as the decoding behind a detector's maps.
    """

    line: str
    more: bool


def differences(train: fx.Graph, evaluated: fx.Graph) -> dict[str, Difference]:
    """Find the modules that read ``self.training``, by their paths.

    Steps are aligned, so that one comparison finds many such modules.
    """
    one, two = _steps(train), _steps(evaluated)
    matcher = SequenceMatcher(None, [_key(node) for node in one], [_key(node) for node in two], autojunk=False)
    found: dict[str, Difference] = {}
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag == "equal":
            continue
        deepest = max([*one[i:i_end][:1], *two[j:j_end][:1]], key=_depth)
        path, more = owner(deepest), tag == "insert"
        known = found.setdefault(path, Difference(deepest.meta["facts"].line, more))
        found[path] = Difference(known.line, known.more and more)
    return found


def values_of(graph: fx.Graph) -> dict[str, int]:
    """Number what every step computes, by its name: equal numbers in both modes where both compute the same.

    A ``detach`` is what it detaches: it only changes where gradients go.
    """
    values: dict[str, int] = {}
    for node in graph.nodes:
        read = tuple(values[name] for name in _reads(node))
        values[node.name] = read[0] if _is_detached(node) else hash((_key(node), read))
    return values


def _reads(node: fx.Node) -> list[str]:
    """Name the arguments of a node, in order; one that is read twice stands there twice."""
    names: list[str] = []
    fx.node.map_arg((node.args, node.kwargs), lambda argument: names.append(argument.name))
    return names


def _is_detached(node: fx.Node) -> bool:
    return (node.op == "call_method" and node.target == "detach") or node.target is torch.detach


def _steps(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op != "output" and not _is_detached(node)]


def _depth(node: fx.Node) -> int:
    """Count the modules around a node."""
    path = owner(node)
    return len(path.split(".")) if path else 0


def _key(node: fx.Node) -> Any:
    """Reduce a step to what both modes share where they compute the same: call, calling module, literal arguments."""
    if node.op == "get_attr":
        return node.op, str(node.target)
    if node.op == "call_function" and node.target in DROPOUT_FUNCTIONS:
        return node.op, node.target, owner(node)
    # dropout inside attention differs between the modes and is no reason to keep the attention whole
    options = {key: value for key, value in node.kwargs.items() if key != "dropout_p"}
    literals = fx.node.map_arg((node.args, options), lambda argument: "·")
    return node.op, node.target, owner(node), str(literals)
