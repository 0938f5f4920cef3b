"""Data movement on codes: reshapes, transpositions, padding, shuffles and rolls."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkd_deploy.graph.contract import slice_rules
from qkd_deploy.graph.contract.evaluation import mover, own_call, plain
from qkd_deploy.graph.contract.lowering import Lowering, is_computed, named
from qkd_deploy.graph.contract.operator import Frozen, Operands, Operator, Rewrite, StaysInFloat, Tail, refuse_if
from qkd_deploy.graph.ir import Node
from qkd_deploy.graph.quantized import QuantizedTensor

_PADDING_MODES: dict[type[nn.Module], str] = {
    nn.ReflectionPad1d: "reflect",
    nn.ReflectionPad2d: "reflect",
    nn.ReplicationPad1d: "replicate",
    nn.ReplicationPad2d: "replicate",
}


# -- reshapes and transpositions ---------------------------------------------------------------------------------------


def require_one_batch_dim(node: Node) -> None:
    """Refuse to reshape what follows the batch in several dimensions, of which only one may be left open in the file.

    Raises:
        StaysInFloat: it does.
    """
    refuse_if(len(node.batch_dims) > 1, "a reshape that spreads the batch over several dimensions stays in float")


def _lower_reshape(low: Lowering, node: Node, target: Any) -> None:
    require_one_batch_dim(node)
    if node.method and node.target == "view":
        node.target = "reshape"  # codes may lie in another order in memory than the user's tensor did
    low.keep_call(node, RESHAPE)


def _lower_reshape_like(low: Lowering, node: Node, target: Any) -> None:
    """The shape of another tensor, as far as it does not depend on the batch."""
    require_one_batch_dim(node)
    low.become(node, RESHAPE, (node.args[0], node.open_shape), target=torch.reshape)


def _lower_transpose(low: Lowering, node: Node, target: Any) -> None:
    rank = low.rank(node.args[0])
    refuse_if(
        rank < 0 or is_computed(node.args[1:], node.kwargs), "a transposition by computed dimensions stays in float"
    )
    told_apart = torch.empty(tuple(range(rank)), device="meta")  # dimension d has size d
    moved = getattr(told_apart, named(target))(*node.args[1:], **node.kwargs)
    low.become(node, TRANSPOSE, (node.args[0],), dims=tuple(moved.shape))


def _lower_attribute(low: Lowering, node: Node, target: Any) -> None:
    """``x.mT``, the transposed matrices, and ``x.data``, the tensor cut off from its gradient."""
    operand, name = node.args
    rank = low.rank(operand)
    if name == "data" and low.is_float(operand):
        node.target, node.args = torch.detach, (operand,)
        require_one_batch_dim(node)
        low.keep_call(node, RESHAPE)
    elif name == "mT" and rank >= 2:
        low.become(node, TRANSPOSE, (operand,), dims=(*range(rank - 2), rank - 1, rank - 2))
    else:
        raise StaysInFloat(node.reason)


# -- padding ---------------------------------------------------------------------------------------------------------


def _lower_pad(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, ("input", "pad", "mode", "value"), mode="constant")
    mode, flat = _PADDING_MODES.get(type(target), bound["mode"]), bound["pad"]
    refuse_if(
        is_computed(flat) or any(not isinstance(amount, int) or amount < 0 for amount in flat),
        "padding by computed or negative amounts stays in float",
    )
    refuse_if(
        mode not in ("constant", "reflect", "replicate") or (mode == "constant" and bound.get("value")),
        "padding with other values than zeros or the image's own stays in float",
    )
    pairs = list(zip(flat[::2], flat[1::2], strict=True))[::-1]
    amounts = ((0, 0),) * (low.rank(node.args[0]) - len(pairs)) + tuple(pairs)
    padded = [dim for dim, pair in enumerate(amounts) if any(pair)]
    low.require_off_batch(node.args[0], padded, "padding along the batch stays in float")
    low.become(node, PAD, (node.args[0],), amounts=amounts, mode=mode)


def pad(x: Tensor, amounts: tuple[tuple[int, int], ...], mode: str) -> Tensor:
    """Pad every dimension by ``(before, after)``, with zeros or (``mode``) the image's own values."""
    used = next((i for i, pair in enumerate(amounts) if any(pair)), len(amounts))
    first = used if mode == "constant" else 2  # the other modes pad all spatial dimensions
    flat = [amount for pair in reversed(amounts[first:]) for amount in pair]
    return F.pad(x, flat, mode=mode)


def _border(x: Tensor, amounts: tuple[tuple[int, int], ...], values: tuple[float, ...]) -> Tensor:
    """Pad every dimension of images [N, C, ...] by ``(before, after)`` with a value of each channel's own.

    Exact for codes, and for what they stand for with a step that is a power of two.
    """
    flat = [amount for pair in reversed(amounts[2:]) for amount in pair]
    edge = x.new_tensor(values).view(-1, *[1] * (x.dim() - 2))
    return F.pad(x - edge, flat) + edge


def _border_codes(operator: Operator, frozen: Frozen, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    (x,) = args
    if not isinstance(x, QuantizedTensor):
        return None
    codes = tuple(x.grid.quantize(torch.tensor(kwargs["values"], device=x.codes.device)).tolist())
    return QuantizedTensor(_border(x.codes, kwargs["amounts"], codes), x.grid)


# -- shuffles and rolls ------------------------------------------------------------------------------------------------


def _lower_pixel_shuffle(low: Lowering, node: Node, target: Any) -> None:
    batch, channels, height, width = _image(low, node)
    r = int(_only_argument(node, target, "upscale_factor"))
    split = (batch, channels // r**2, r, r, height, width)
    moved = (batch, channels // r**2, height, r, width, r)
    _shuffle(low, node, split, (0, 1, 4, 2, 5, 3), moved)


def _lower_pixel_unshuffle(low: Lowering, node: Node, target: Any) -> None:
    batch, channels, height, width = _image(low, node)
    r = int(_only_argument(node, target, "downscale_factor"))
    split = (batch, channels, height // r, r, width // r, r)
    _shuffle(low, node, split, (0, 1, 3, 5, 2, 4), (batch, channels, r, r, height // r, width // r))


def _image(low: Lowering, node: Node) -> tuple[int, ...]:
    shape = low.shape(node.args[0])
    refuse_if(len(shape) != 4, "a pixel shuffle of anything but images stays in float")
    return shape


def _lower_channel_shuffle(low: Lowering, node: Node, target: Any) -> None:
    groups = int(_only_argument(node, target, "groups"))
    batch, channels, *image = low.shape(node.args[0])
    split = (batch, groups, channels // groups, *image)
    order = (0, 2, 1, *range(3, len(split)))
    _shuffle(low, node, split, order, (batch, channels // groups, groups, *image))


def _only_argument(node: Node, target: Any, attribute: str) -> Any:
    """Read the argument that a function takes besides its tensor, or a module keeps as an attribute."""
    return getattr(target, attribute) if isinstance(target, nn.Module) else (*node.args[1:], *node.kwargs.values())[0]


def _shuffle(low: Lowering, node: Node, split: tuple[int, ...], order: tuple[int, ...], moved: tuple[int, ...]) -> None:
    """Split dimensions, permute them and join them again."""
    operand, batch = node.args[0], {"batch_dims": (0,)}
    refuse_if(low.batch_dims(operand) != (0,), "a shuffle of an unbatched tensor stays in float")
    parts = low.insert_before(node, RESHAPE, (operand, (-1, *split[1:])), "split", split, target=torch.reshape, **batch)
    turned = low.insert_before(node, TRANSPOSE, (parts,), "permuted", moved, kwargs={"dims": order}, **batch)
    low.become(node, RESHAPE, (turned, (-1, *node.sizes[1:])), target=torch.reshape)


def _lower_roll(low: Lowering, node: Node, target: Any) -> None:
    bound = low.bind(node, target, ("input", "shifts", "dims"))
    shifts, dims = (_as_tuple(bound.get(name)) for name in ("shifts", "dims"))
    reason = "rolling along the batch, flattened, or by computed amounts stays in float"
    refuse_if(not dims or not all(isinstance(value, int) for value in (*shifts, *dims)), reason)
    dims = tuple(dim % low.rank(node.args[0]) for dim in dims)
    low.require_off_batch(node.args[0], dims, reason)
    low.become(node, ROLL, (node.args[0],), shifts=shifts, dims=dims)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, int) else tuple(value or ())


# -- rows --------------------------------------------------------------------------------------------------------------

RESHAPE = mover(
    name="reshape",
    docs="the same elements in another shape",
    kernel="Reshape",
    floats=own_call,
    torch=(
        *(nn.Flatten, nn.Unflatten, torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.unflatten),
        *("flatten", "unflatten", "view", "reshape", "squeeze", "unsqueeze"),
    ),
    lower=_lower_reshape,
    moves_with_clip=True,
    slices=slice_rules.reshaped,
)
TRANSPOSE = mover(
    name="transpose",
    docs="the dimensions in another order",
    kernel="Transpose",
    floats=plain(torch.permute),
    torch=(
        *(torch.permute, torch.transpose, "permute", "transpose"),
        *(torch.swapaxes, torch.swapdims, torch.movedim, torch.moveaxis),
        *("swapaxes", "swapdims", "movedim", "moveaxis"),
    ),
    lower=_lower_transpose,
    moves_with_clip=True,
    slices=slice_rules.transposed,
)
PAD = mover(
    name="pad",
    docs="zeros or the image's own values around it",
    kernel="Pad",
    tail=Tail.BESIDE_OTHERS,
    floats=plain(pad),
    torch=(
        *(F.pad, nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d),
        *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d),
    ),
    lower=_lower_pad,
    pads=True,
)
BORDER = Operator(
    name="border",
    docs="a border around an image, with a value for each channel",
    kernel="Concat",
    operands=Operands.CODES,
    own_scale=False,
    tail=Tail.BESIDE_OTHERS,
    floats=plain(_border),
    integers=_border_codes,
    pads=True,
    internal=True,
)
ROLL = mover(
    name="roll",
    docs="elements that leave one end and enter at the other",
    kernel="Concat",
    tail=Tail.BESIDE_OTHERS,
    floats=plain(torch.roll),
    torch=(torch.roll, "roll"),
    lower=_lower_roll,
)
ROWS = (
    RESHAPE,
    TRANSPOSE,
    PAD,
    BORDER,
    ROLL,
    Rewrite(name="reshape_like", becomes="a reshape", torch=("view_as", "reshape_as"), lower=_lower_reshape_like),
    Rewrite(name="attribute", becomes="a transposition of matrices", torch=(getattr,), lower=_lower_attribute),
    Rewrite(
        name="pixel_shuffle",
        becomes="reshapes and a transposition",
        torch=(F.pixel_shuffle, nn.PixelShuffle),
        lower=_lower_pixel_shuffle,
    ),
    Rewrite(
        name="pixel_unshuffle",
        becomes="reshapes and a transposition",
        torch=(F.pixel_unshuffle, nn.PixelUnshuffle),
        lower=_lower_pixel_unshuffle,
    ),
    Rewrite(
        name="channel_shuffle",
        becomes="reshapes and a transposition",
        torch=(nn.ChannelShuffle, torch.channel_shuffle),
        lower=_lower_channel_shuffle,
    ),
)
