"""Reading weights from files that were not necessarily written by this package, without running their code."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkd_deploy.errors import UserError

_WRAPPERS = ("state_dict", "model", "model_state_dict", "network")
_PREFIXES = ("module.", "_orig_mod.")


def read_tensors(path: Path | str) -> Any:
    """The content of a file written by ``torch.save``, if it holds only tensors and plain data.

    Raises:
        UserError: the file is missing or unreadable, is damaged or of another kind, or wants to run code.
    """
    file = Path(path)
    try:
        if file.is_dir():
            raise UserError(f"{file} is a folder; name the file in it, such as {file / 'model.pt'}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles, which end in an error anyway
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; check the path") from error
    except PermissionError as error:
        raise UserError(f"{file} cannot be read: permission denied; change its permissions") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} is refused: it is damaged, or holds objects that run code when loaded instead of only tensors; "
            "use a checkpoint of qkd-deploy or a plain state_dict"
        ) from error
    except UserError:
        raise
    except Exception as error:  # torch.load has no common error for damaged files
        raise UserError(f"{file} is damaged or was not written by torch.save; use another file") from error


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """A state_dict from a ``.safetensors`` file, a plain or wrapped ``.pt``, or a full-precision checkpoint of ours.

    Prefixes that wrappers add to every name (``module.``, ``_orig_mod.``) are removed.

    Raises:
        UserError: the file cannot be read or holds no state_dict, or the weights of a quantized network.
    """
    file = Path(path)
    content = _read_safetensors(file) if file.suffix == ".safetensors" else read_tensors(file)
    if isinstance(content, Mapping) and content.get("quantization") is not None:
        raise UserError(f"{file} holds a quantized network; give full-precision weights")
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content or not all(map(_is_weight, content.items())):
        raise UserError(f"{file} holds no state_dict (names with tensors); save one with torch.save(net.state_dict())")
    return _without_prefixes(dict(content))


def _is_weight(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"reading {file} needs the package safetensors; pip install safetensors") from error
    try:
        return load_file(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; check the path") from error
    except Exception as error:  # the Rust library has its own errors
        raise UserError(f"{file} is not a safetensors file or is damaged; use another file") from error


def _without_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def load_into(network: nn.Module, weights: Mapping[str, Tensor], network_name: str, source: Path | str) -> None:
    """Copy ``weights`` into ``network``; names and shapes must agree and values be finite.

    Raises:
        UserError: they do not; the message says what is missing, unexpected, of another shape or not finite.
    """
    wanted = network.state_dict()
    # Counters that newer batch norms keep; files from other tools lack them.
    missing = [name for name in wanted if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in wanted]
    shapes = [
        f"{name} {list(weights[name].shape)} instead of {list(value.shape)}"
        for name, value in wanted.items()
        if name in weights and weights[name].shape != value.shape
    ]
    account = [
        f"{kind} {_some(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("other shapes:", shapes))
        if names
    ]
    if account:
        raise UserError(f"{source} does not fit {network_name}: {'; '.join(account)}; name the model it belongs to")
    require_finite(weights, source)
    network.load_state_dict(dict(weights), strict=False)


def require_finite(weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Refuse weights with values that are not finite.

    Raises:
        UserError: there are some; the message names the tensor.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"{source} holds NaN or infinite values in {name}; use an earlier or another file")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
