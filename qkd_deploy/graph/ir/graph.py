"""Nodes in execution order, with an index of who reads what.

The index follows every change, so that a pass over the graph takes time in proportion to the number of nodes: readers
and producers are looked up, never searched for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

from qkd_deploy.graph.ir.node import Node, Ref, references, substitute
from qkd_deploy.graph.ir.text import node_text, value_text

_position = attrgetter("position")


class Graph:
    """Nodes in execution order, the names of the input nodes, and the nested output structure (with ``Ref``s).

    Nodes are added, moved and removed by the methods below; their arguments may be set directly, but not changed
    inside (``node.kwargs["dim"] = ...`` is fine as long as no ``Ref`` comes or goes).
    """

    def __init__(self, nodes: Iterable[Node], inputs: list[str], output: Any) -> None:
        self.inputs = inputs
        self._nodes: list[Node] = []
        self._named: dict[str, Node] = {}
        self._reads: dict[str, tuple[str, ...]] = {}
        self._readers: dict[str, dict[str, None]] = {}  # the names of nodes, as a set that keeps its order
        self._last_uses: dict[str, list[str]] | None = None
        self.output = output
        for node in nodes:
            self.append(node)

    def __str__(self) -> str:
        lines = [*map(node_text, self._nodes), f"return {value_text(self.output)}"]
        return "".join(f"{line}\n" for line in lines)

    # -- looking up --------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes in execution order, as they are now: the graph may change while a loop goes over them."""
        return tuple(self._nodes)

    @property
    def output(self) -> Any:
        """The structure that the network returns: ``Ref``s nested as the user wrote them."""
        return self._output

    @output.setter
    def output(self, value: Any) -> None:
        self._output, self._last_uses = value, None
        self._outputs = [ref.name for ref in references(value)]

    @property
    def batch_size(self) -> int:
        """Number of the examples that shapes are for."""
        return self.node(self.inputs[0]).sizes[0]

    def node(self, name: str) -> Node:
        """The node of that name, which makes the tensor of that name."""
        return self._named[name]

    def __contains__(self, node: Node) -> bool:
        return self._named.get(node.name) is node

    def users(self, name: str) -> list[Node]:
        """The nodes that read a tensor, in execution order, each once."""
        return sorted((self._named[reader] for reader in self._readers.get(name, ())), key=_position)

    def only_user(self, name: str) -> Node | None:
        """The node that alone reads a tensor; None where the network returns it or others read it, too."""
        readers = self._readers.get(name, {})
        return self._named[next(iter(readers))] if len(readers) == 1 and name not in self._outputs else None

    def outputs(self) -> list[str]:
        """Names of the nodes that the network returns."""
        return self._outputs

    def constants(self) -> set[str]:
        """Names of the nodes that no input has a part in."""
        found: set[str] = set()
        for node in self._nodes:
            if node.kind not in ("input", "scalar") and found.issuperset(self._reads[node.name]):
                found.add(node.name)
        return found

    def last_uses(self) -> dict[str, list[str]]:
        """For every node's name, the tensors that nobody reads after it."""
        if self._last_uses is None:
            last: dict[str, str] = {}
            for node in self._nodes:
                last |= dict.fromkeys((node.name, *self._reads[node.name]), node.name)
            self._last_uses = {node.name: [] for node in self._nodes}
            for name, reader in last.items():
                if name not in self._outputs:
                    self._last_uses[reader].append(name)
        return self._last_uses

    # -- nodes come and go -------------------------------------------------------------------------------------------

    def unused_name(self, wanted: str) -> str:
        """``wanted``, or where a node has that name already, with a number behind it."""
        name, count = wanted, 1
        while name in self._named:
            count += 1
            name = f"{wanted}_{count}"
        return name

    def append(self, node: Node) -> None:
        """Add a node behind all others."""
        self._insert(len(self._nodes), node)

    def insert_before(self, anchor: Node, node: Node) -> None:
        """Add a node directly in front of another one."""
        self._insert(self._index(anchor), node)

    def insert_after(self, anchor: Node, node: Node) -> None:
        """Add a node directly behind another one."""
        self._insert(self._index(anchor) + 1, node)

    def remove(self, node: Node, stand_in: str | None = None) -> None:
        """Take a node out; its readers, and the output, then read ``stand_in`` where one is given."""
        if stand_in is not None:
            self.replace_all_uses(node.name, stand_in)
        del self._nodes[self._index(node)], self._named[node.name]
        for name in self._reads.pop(node.name):
            del self._readers[name][node.name]
        node.on_new_arguments, self._last_uses = None, None

    def remove_unread(self, kind: str) -> None:
        """Take out the nodes of a kind that nobody reads."""
        for node in self.nodes:
            if node.kind == kind and not self._readers.get(node.name) and node.name not in self._outputs:
                self.remove(node)

    def remove_unneeded(self) -> None:
        """Take out what no output needs; inputs stay, because callers pass them."""
        needed = set(self._outputs)
        for node in reversed(self._nodes):
            if node.name in needed:
                needed.update(node.inputs)
        for node in self.nodes:
            if node.name not in needed and node.name not in self.inputs:
                self.remove(node)

    def move_before(self, anchor: Node, node: Node) -> None:
        """Move a node directly in front of another one."""
        self.remove(node)
        self.insert_before(anchor, node)

    # -- readers change ----------------------------------------------------------------------------------------------

    def replace_all_uses(self, old: str, new: str) -> None:
        """Let all readers of ``old`` but ``new`` itself, and the output, read ``new``."""
        self.replace_uses_in(self.users(old), old, new)
        if old in self._outputs:
            self.output = substitute(self.output, lambda ref: Ref(new) if ref.name == old else ref)

    def replace_uses_in(self, readers: Iterable[Node], old: str, new: str) -> None:
        """Let these readers of ``old`` read ``new``; the node that makes ``new`` is left as it is."""

        def rename(ref: Ref) -> Ref:
            return Ref(new) if ref.name == old else ref

        for node in readers:
            if node.name != new:
                node.args, node.kwargs = substitute((node.args, node.kwargs), rename)

    def rename(self, names: Mapping[str, str]) -> None:
        """Give every node a new name, at once; ``names`` holds all of them by the old ones."""

        def rename(ref: Ref) -> Ref:
            return Ref(names[ref.name])

        nodes = self.nodes
        for node in nodes:
            self.remove(node)
        for node in nodes:
            node.name = names[node.name]
            node.args, node.kwargs = substitute((node.args, node.kwargs), rename)
            self.append(node)
        self.inputs = [names[name] for name in self.inputs]
        self.output = substitute(self.output, rename)

    # -- the index ---------------------------------------------------------------------------------------------------

    def _index(self, node: Node) -> int:
        return bisect_left(self._nodes, node.position, key=_position)

    def _insert(self, index: int, node: Node) -> None:
        if node.name in self._named:
            raise ValueError(f"two nodes are called {node.name}")
        low = self._nodes[index - 1].position if index else -1.0
        high = self._nodes[index].position if index < len(self._nodes) else low + 2
        node.position = (low + high) / 2
        self._nodes.insert(index, node)
        if not low < node.position < high:  # the floats between two neighbours are used up
            for place, each in enumerate(self._nodes):
                each.position = float(place)
        self._named[node.name] = node
        self._reads[node.name] = ()
        node.on_new_arguments = self._reindex
        self._reindex(node)

    def _reindex(self, node: Node) -> None:
        """Note anew which tensors a node reads."""
        for name in self._reads[node.name]:
            del self._readers[name][node.name]
        self._reads[node.name] = tuple(dict.fromkeys(node.inputs))
        for name in self._reads[node.name]:
            self._readers.setdefault(name, {})[node.name] = None
        self._last_uses = None
