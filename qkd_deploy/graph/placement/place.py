"""Where quantizers go, and how wide they are.

Every tensor that an integer kernel makes gets one activation quantizer, shared by its readers, as wide as the widest
of them needs. A reader that needs fewer bits gets a second quantizer behind the first ("requantize"), which is exact in
integers. Widths come from the readers: a layer needs its activation bits; additions, concatenations and poolings need 8
(or, with ``residual="shared"``, the network's low bits); max-pools and data movement pass on what their readers need.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from qkd_deploy.bits import BitWidths, TensorSpec
from qkd_deploy.graph.contract.operator import Operands, Tail
from qkd_deploy.graph.ir import Graph, Node, Ref
from qkd_deploy.graph.module_keys import module_key
from qkd_deploy.graph.ops import operator_of
from qkd_deploy.graph.ops.arithmetic import ADD, REQUANTIZE
from qkd_deploy.graph.ops.constants import CONSTANT, INPUT, SCALAR
from qkd_deploy.graph.placement.expectations import expectations
from qkd_deploy.graph.placement.layer_bits import layer_bits
from qkd_deploy.graph.placement.settings import QuantizationSettings
from qkd_deploy.graph.placement.signs import Signs
from qkd_deploy.graph.placement.tail import tail_of, without_integer_readers
from qkd_deploy.pixels.normalization import CENTERED

WIDE_BITS = 8
FACTOR_BITS = 7
"""Of the right operand of a product of two activations: codes within +-64 are what a signed byte may hold beside
unsigned ones wherever x86 CPUs without VNNI add pairs of products in 16 bits."""


@dataclass
class Placed:
    """The graph with its quantizers.

    Attributes:
        graph: nodes name their quantizers by key.
        layer_bits: bits of every layer, by tensor name.
        activations: grid of every activation quantizer, by key.
        rescaled: for the key of every tensor whose codes are another's times a number, the other's key and the number.
        replaced: activation functions that became others, by ``OLD=NEW`` the number of places.
    """

    graph: Graph
    layer_bits: dict[str, BitWidths]
    activations: dict[str, TensorSpec]
    rescaled: dict[str, tuple[str, float]]
    replaced: dict[str, int] = field(default_factory=dict)


def place(model: nn.Module, graph: Graph, settings: QuantizationSettings) -> Placed:
    """Give nodes their quantizers.

    Raises:
        UserError: an override that matches no layer.
    """
    if settings.integer:
        expectations(model, graph)
    bits = layer_bits(model, graph, settings)
    placer = _Placer(model, graph, settings, bits)
    if not settings.bits.weights_only:
        placer.place_integer() if settings.integer else placer.place_paper()
    return Placed(graph, bits, placer.activations, placer.rescaled)


def has_known_codes(node: Node, settings: QuantizationSettings) -> bool:
    """True for an input of pixels whose codes are known: as they come, or because layers took its normalisation."""
    if node.kind != INPUT.name or settings.input_quantization is None:
        return False
    return settings.normalization in (None, CENTERED) or bool(node.kwargs)


class _Placer:
    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        settings: QuantizationSettings,
        layer_bits: dict[str, BitWidths],
    ) -> None:
        self.graph, self.settings, self.layer_bits = graph, settings, layer_bits
        self.activations: dict[str, TensorSpec] = {}
        pixels = {node.name for node in graph.nodes if has_known_codes(node, settings)}
        self.signs = Signs(model, graph, pixels)
        self.constants = graph.constants()
        self.tail = tail_of(model, graph)
        self.unread_by_integers = without_integer_readers(model, graph, self.tail)
        self.grid: dict[str, str | None] = {}  # tensor -> key of the quantizer whose scale its codes have
        self.rescaled: dict[str, tuple[str, float]] = {}

    # -- integer placement -------------------------------------------------------------------------------------------

    def place_integer(self) -> None:
        for node in self.graph.nodes:
            if node.kind == SCALAR.name:
                continue
            first = self.grid.get(node.inputs[0]) if node.inputs else None
            if node.is_layer or (operator_of(node).adds_steps and len(node.inputs) > 1):
                node.source = first
            if operator_of(node).moves_codes:
                self.grid[node.name] = self._moved(node, first)
                node.tail = self._moves_floats_of_tail(node)
            else:
                node.tail = node.name in self.tail
                bits = self._bits_made(node)
                self.grid[node.name] = self._add_quantizer(node, bits) if bits else None
            self._requantize_for_narrow_readers(node)

    def _moves_floats_of_tail(self, node: Node) -> bool:
        """True for what multiplies or compares floats behind the last kernels; elsewhere it acts on codes."""
        behind = node.name in self.unread_by_integers - self.constants
        return behind and self.grid[node.name] is None and operator_of(node).tail is not Tail.NEVER

    def _moved(self, node: Node, grid: str | None) -> str | None:
        """The scale of codes that only move, or stand for a multiple of what they stood for."""
        factor = operator_of(node).scale_factor
        if factor is None or grid is None:
            return grid
        key = module_key(node.name)
        self.rescaled[key] = (grid, factor(node))
        return key

    def _spec(self, key: str) -> TensorSpec:
        """The codes behind a key of ``grid``."""
        while key in self.rescaled:
            key, _ = self.rescaled[key]
        return self.activations[key]

    def _bits_made(self, node: Node) -> int | None:
        """Bits of the quantizer on a node's output; None where the tensor stays in float."""
        if node.name in self.unread_by_integers:
            return WIDE_BITS if self._makes_integers(node) else None
        if operator_of(node).step is not None:
            return WIDE_BITS
        needed = [bits for bits in self._needs(node) if bits is not None]
        if needed:
            return max(needed)
        return WIDE_BITS if self._makes_integers(node) and not self._is_guard(node) else None

    def _makes_integers(self, node: Node) -> bool:
        """True where a kernel makes codes though no reader asks for them.

        A last linear layer gives floats from integers. An activation function behind it needs codes: only as a range of
        codes does it run in integers. The tail behind the last kernels needs no codes.
        """
        given = node.kind in (INPUT.name, CONSTANT.name)
        gives_floats = operator_of(node).floats_at_the_end and node.clip is None
        return operator_of(node).own_scale and not given and not gives_floats and not node.tail

    def _is_guard(self, node: Node) -> bool:
        """True for a constant added for operations in float, as in ``rsqrt(x + 1e-6)``: codes would lose it."""
        if node.kind != ADD.name or node.inputs[1] not in self.constants:
            return False
        wanted = {operator_of(reader).operands for reader in self.graph.users(node.name)}
        return wanted == {Operands.FLOATS}

    def _needs(self, node: Node) -> list[int | None]:
        """Bits that the readers of a tensor need; None for a reader of floats."""
        needs: list[int | None] = [None] if node.name in self.graph.outputs() else []
        for reader in self.graph.users(node.name):
            if self._read_as_floats(node, reader):
                needs.append(None)
            elif operator_of(reader).moves_codes:
                needs.extend(self._needs(reader))
            else:
                needs.extend(self._needed_by_kernel(node, reader))
        return needs

    def _read_as_floats(self, node: Node, reader: Node) -> bool:
        """True for readers of floats: of all tensors, or of this constant."""
        if operator_of(reader).operands is Operands.FLOATS:
            return True
        if operator_of(reader).adds_steps and node.name != reader.inputs[0]:
            return True
        is_float = node.dtype.is_floating_point
        return node.kind == CONSTANT.name and (operator_of(reader).float_constants or not is_float)

    def _needed_by_kernel(self, node: Node, reader: Node) -> list[int | None]:
        """Bits that one kernel needs of an operand; [] where it reads no tensor."""
        wanted = operator_of(reader).operands
        if wanted is Operands.LAYER_BITS:
            return [self.layer_bits[reader.name].activation]
        if wanted is Operands.EIGHT_BITS:
            return [WIDE_BITS]
        if wanted is not Operands.WIDE:
            return []
        bits = self.settings.bits.activation if self.settings.residual == "shared" else WIDE_BITS
        return [min(bits, FACTOR_BITS) if self._is_factor(node.name, reader) else bits]

    def _is_factor(self, name: str, reader: Node) -> bool:
        """True where a product of two activations reads a tensor as the operand that becomes signed bytes."""
        place = operator_of(reader).factor
        return place is not None and reader.inputs[place] == name and self.settings.weight_range != "full"

    def _add_quantizer(self, node: Node, bits: int, *, saturating: bool = False) -> str:
        if has_known_codes(node, self.settings):
            spec = TensorSpec.activation(WIDE_BITS, signed=True)
        else:
            spec = TensorSpec.saturating(bits) if saturating else self.signs.spec(node.name, bits)
        node.quantizer = module_key(node.name)
        self.activations[node.quantizer] = spec
        return node.quantizer

    def _requantize_for_narrow_readers(self, node: Node) -> None:
        """Insert second quantizers behind a tensor, one for every smaller width that a layer or a product needs."""
        grid = self.grid[node.name]
        if grid is None or node.kind == REQUANTIZE.name:
            return
        made = self._spec(grid).bits
        narrow: dict[int, list[Node]] = {}
        for reader in self.graph.users(node.name):
            bits = self._narrow_bits(node, reader)
            if bits < made:
                narrow.setdefault(bits, []).append(reader)
        for bits, readers in narrow.items():
            self._insert(node, bits, readers)

    def _narrow_bits(self, node: Node, reader: Node) -> int:
        """Bits above which a reader gets a second quantizer of its own."""
        if reader.is_layer:
            return self.layer_bits[reader.name].activation
        return FACTOR_BITS if self._is_factor(node.name, reader) else WIDE_BITS

    def _insert(self, node: Node, bits: int, readers: list[Node]) -> None:
        name = f"{node.name}.a{bits}"
        second = Node(
            name,
            REQUANTIZE.name,
            (Ref(node.name),),
            label=name,
            module=node.module,
            shape=node.shape,
            batch_dims=node.batch_dims,
        )
        grid = self.grid.get(node.name)
        wide = self._spec(grid) if grid is not None else None
        # codes that are never negative need no integer clip when 255 is their largest; but they then meet the weights
        # as codes up to 255, which 8-bit weights beyond +-64 do not survive on x86 CPUs without VNNI
        saturating = wide is not None and wide.lo == 0 and self.settings.weight_range != "full"
        self.signs.copy(node.name, name)
        self.graph.insert_after(node, second)
        self.graph.replace_uses_in(readers, node.name, name)
        self.grid[name] = self._add_quantizer(second, bits, saturating=saturating)

    # -- paper placement ---------------------------------------------------------------------------------------------

    def place_paper(self) -> None:
        """Quantize only what convolutions and linear layers read, as the papers do; everything else stays in float."""
        for node in self.graph.nodes:
            wanted = self._wanted_by_layers(node)
            if node.kind == INPUT.name and wanted:
                self.grid[node.name] = self._add_quantizer(node, max(wanted))
                wanted.pop(max(wanted))
            for bits, readers in wanted.items():
                self._insert(node, bits, readers)
        for node in self.graph.nodes:
            if node.is_layer:
                node.source = self.grid.get(node.inputs[0])

    def _wanted_by_layers(self, node: Node) -> dict[int, list[Node]]:
        """The layers that read a tensor, by the bits that they need."""
        wanted: dict[int, list[Node]] = {}
        for reader in self.graph.users(node.name):
            if reader.is_layer:
                wanted.setdefault(self.layer_bits[reader.name].activation, []).append(reader)
        return wanted
