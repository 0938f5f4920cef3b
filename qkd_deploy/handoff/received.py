"""A bundle as ``verify`` gets it: signed by whom it should be, and as it was packed."""

from __future__ import annotations

from pathlib import Path

from qkd_deploy.handoff.manifest import SIGNATURE, Manifest, differences
from qkd_deploy.handoff.signature import is_signed
from qkd_deploy.verification.findings import Level


def received(bundle: Path, manifest: Manifest, key: Path | None) -> Level:
    """Compare a bundle with its manifest, and that with its signature.

    Args:
        bundle: the folder.
        manifest: of it.
        key: the public key of the signer; None looks for no signature.

    Raises:
        UserError: as ``is_signed``.
    """
    if key is not None and not is_signed(bundle, manifest, key):
        by = f" by the owner of {key}" if (bundle / SIGNATURE).exists() else ""
        return Level("bundle", "failed", (f"it is not signed{by}",))
    found = differences(bundle, manifest)
    signed = "" if key is None else f", signed by the owner of {key}"
    told = f"{len(manifest.files)} files as they were packed{signed}"
    return Level("bundle", "failed" if found else "passed", tuple(found or [told]))
