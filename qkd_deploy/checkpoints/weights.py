"""Reading weights from files that were not necessarily written by this package, without running their code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from qkd_deploy.checkpoints.records import is_checkpoint
from qkd_deploy.checkpoints.state_dicts import state_dict_in
from qkd_deploy.checkpoints.torch_file import read_tensors
from qkd_deploy.checkpoints.weights_file import WeightsFile, missing, weights_file
from qkd_deploy.checkpoints.weights_fit import Fit, common_prefix, own_wrapper, renamed_head
from qkd_deploy.errors import UserError

_NETWORK = "network."
"""Before the names of the user's network in a prepared one."""


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Read weights in full precision: of a ``.safetensors`` file, a plain or wrapped ``.pt``, or a checkpoint of ours.

    Of a quantized checkpoint these are the weights before rounding. Any of them may lie in a wheel or another zip
    archive: ``FILE.whl``, or ``FILE.whl:path/in/it.pth``.

    Raises:
        UserError: the file cannot be read or holds no state_dict.
    """
    file = Path(path)
    found = weights_file(path)
    content = _read_safetensors(file, found) if found.suffix == ".safetensors" else read_tensors(file)
    weights = state_dict_in(content)
    if weights is not None and is_checkpoint(content) and content.get("quantization") is not None:
        weights = _before_rounding(weights)
    if not weights:
        raise UserError(
            f"{file} holds no state_dict (names with tensors); save one with torch.save(net.state_dict(), 'weights.pt')"
        )
    return dict(weights)


def _before_rounding(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the user's network out of a prepared one, without its quantizers."""
    return {name.removeprefix(_NETWORK): value for name, value in state.items() if name.startswith(_NETWORK)}


def _read_safetensors(file: Path, found: WeightsFile) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load, load_file
    except ImportError as error:
        raise UserError(f"reading {file} needs the package safetensors; pip install safetensors") from error
    content = found.content()
    try:
        return load_file(content) if isinstance(content, Path) else load(content.getvalue())
    except FileNotFoundError as error:
        raise missing(file) from error
    except Exception as error:  # the Rust library has its own errors
        raise UserError(f"{file} is not a safetensors file or is damaged; use another file") from error


def load_into(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    network_name: str,
    source: Path | str,
    *,
    skip: Sequence[str] | None = None,
) -> str:
    """Copy ``weights`` into ``network``; names and shapes must agree and values be finite.

    A prefix that wrappers put before the network's names (``module.``, ``_orig_mod.``, ``backbone.``, ...) is taken
    off, whatever it is, and what lies outside of it is ignored; one that all of the network's own names have is put on.
    A classifier that has another name in the file is recognised where only one linear layer can be meant. Values are
    converted to the network's types.

    Args:
        network: is changed in place.
        weights: from ``read_weights``.
        network_name: of the network, for messages.
        source: the file, for messages.
        skip: patterns of entries or modules that keep the values they have, such as ``("fc",)`` for a head of another
            number of classes; None where the caller has no setting for them.

    Returns:
        what was loaded and what was not, as one line.

    Raises:
        UserError: something does not fit (the message says what is missing, unexpected, of another shape or type),
            is not finite, or a pattern matches nothing.
    """
    wanted = network.state_dict()
    prefix = common_prefix(weights, wanted, network_name, source)
    wrapper = "" if prefix else own_wrapper(weights, wanted)
    found = {wrapper + name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    head = renamed_head(wanted, found)
    fit = Fit(
        wanted,
        {_renamed(name, head): value for name, value in found.items()},
        outside=[name for name in weights if not name.startswith(prefix)],
        skip=tuple(skip or ()),
    )
    fit.require_matches(source)
    if account := fit.account():
        raise UserError(f"{source} does not fit {network_name}: {account}; {fit.advice(with_skip=skip is not None)}")
    values = {name: fit.found[name].to(wanted[name].dtype) for name in wanted if name in fit.found}
    values = {name: value for name, value in values.items() if not fit.skips(name)}
    require_finite(values, source)
    network.load_state_dict(values, strict=False)
    return fit.report(source, prefix, wrapper, head, values)


def _renamed(name: str, head: tuple[str, str] | None) -> str:
    """Give an entry of the classifier the network's name."""
    module, _, entry = name.rpartition(".")
    return f"{head[1]}.{entry}" if head is not None and module == head[0] else name


def require_finite(weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Refuse weights with values that are not finite.

    Raises:
        UserError: there are some; the message names the tensor.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"{source} holds NaN or infinite values in {name}; use an earlier or another file")
