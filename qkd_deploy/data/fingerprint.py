"""Tell copies of a data set apart by a hash of their content."""

from __future__ import annotations

import hashlib

import torch

# What a fingerprint is called in results, each measured from the files themselves; those of "cifar10" had the
# publisher's checksums. "cifar10-jpeg" is a copy that was stored as JPEG of quality 75, decoded by Pillow 13; another
# decoder may round pixels otherwise and is another copy.
KNOWN_COPIES = {
    "241d04744a06125e": "digits",
    "4ccbf1b7a69437e8": "cifar10",
    "67276235a1e1ad85": "cifar10-jpeg",
}
# Names that promise certain data; any other data under these names must be recognisable as a copy.
PUBLISHED_NAMES = frozenset({"digits", "cifar10", "cifar100", "tiny-imagenet", *KNOWN_COPIES.values()})


def fingerprint_of(*tensors: torch.Tensor) -> str:
    """Hash type, shape and values of each tensor, in the given order: the first 16 hex digits of a SHA-256."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def known_name(name: str, fingerprint: str) -> str:
    """Name a data set in results: a known copy, "cifar10 (copy 0123...)" for an unknown one, else ``name``."""
    if fingerprint in KNOWN_COPIES:
        return KNOWN_COPIES[fingerprint]
    return f"{name} (copy {fingerprint})" if name in PUBLISHED_NAMES else name
