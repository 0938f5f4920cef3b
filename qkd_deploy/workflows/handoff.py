"""From an exported file to a bundle for the application team, and the bundle's verification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from qkd_deploy.data.dataset import ImageDataset
from qkd_deploy.errors import UserError
from qkd_deploy.export.targets.child import TargetProcess
from qkd_deploy.export.targets.file import outputs_of
from qkd_deploy.gate.onnx_file import OnnxFile
from qkd_deploy.handoff.bundle import bundle_files, require_place, write_bundle
from qkd_deploy.handoff.golden import golden_sets
from qkd_deploy.handoff.manifest import is_bundle, read_manifest
from qkd_deploy.handoff.product import Product, product_of
from qkd_deploy.handoff.received import received
from qkd_deploy.handoff.signature import read_private_key
from qkd_deploy.runtimes.ort import OnnxRuntime
from qkd_deploy.runtimes.runtime import RuntimeFault
from qkd_deploy.verification.findings import Level
from qkd_deploy.verification.on_target import Subject, verify_on_target
from qkd_deploy.verification.report import VerificationReport
from qkd_deploy.workflows.export import verify_deployed
from qkd_deploy.workflows.targets import beside_checkpoint


@dataclass(frozen=True)
class HandedOver:
    """A bundle: where it is, what is in it by size, and how the model in it was verified.

    ``files`` is empty where verification failed, so that nothing was written.
    """

    path: Path
    files: dict[str, int]
    report: VerificationReport


def hand_over(
    subject: OnnxFile | Subject,
    output: Path,
    *,
    data: ImageDataset | None = None,
    images: int = 8,
    limit: int | None = None,
    checkpoint: Path | str | None = None,
    model: str | nn.Module | None = None,
    licence: str = "",
    key: Path | None = None,
) -> HandedOver:
    """Verify an exported file, and pack it with all that an application needs.

    Args:
        subject: what ``read_exported`` or ``read_subject`` made of the file.
        output: the folder to write; an earlier bundle in it is replaced.
        data: images to verify on; the first of its held-out ones become golden inputs.
        images: how many.
        limit: verify on the first images only.
        checkpoint: what the file was exported from; the model is VERIFIED with it, and CONSISTENT without.
        model: the network, where it is the user's own (see ``rebuild``).
        licence: of the model, for its card.
        key: PEM file of the private key that signs the bundle; None leaves it unsigned.

    Raises:
        UserError: as ``verify_deployed`` and ``verify_on_target``, ``read_private_key``, ``bundle_files`` and
            ``write_bundle``.
    """
    require_place(output)
    signer = None if key is None else read_private_key(key)
    product = product_of(subject)
    if isinstance(subject, Subject) and checkpoint is not None:
        subject = beside_checkpoint(subject, checkpoint, model)
    if isinstance(subject, Subject):
        report = verify_on_target(subject, data=data, limit=limit)
    else:
        report = verify_deployed(subject, checkpoint=checkpoint, model=model, data=data, limit=limit)
    if not report.passed:
        return HandedOver(output, {}, report)
    decode = partial(_decoded, product.title, *product.decode) if product.decode is not None else None
    golden = golden_sets(product, partial(_outputs, subject, product), data, images, decode)
    files = bundle_files(product, report, golden, further=_further(subject), licence=licence, key=signer)
    write_bundle(files, output)
    return HandedOver(output, {name: len(content) for name, content in files.items()}, report)


@dataclass(frozen=True)
class OpenedBundle:
    """A bundle that was compared with its manifest: the path of the model in it, and what was found."""

    model: Path
    level: Level


def opened_bundle(path: Path, key: Path | None = None) -> OpenedBundle | None:
    """Compare a bundle with its manifest, and that with its signature; None for what has no manifest.

    Args:
        path: the folder.
        key: the public key of the signer; None looks for no signature.

    Raises:
        UserError: the manifest cannot be read, or a key is given for something else.
    """
    if not is_bundle(path):
        if key is not None:
            raise UserError(f"{path} is no bundle, and only bundles are signed; leave --key out (key= in Python)")
        return None
    manifest = read_manifest(path)
    return OpenedBundle(path / manifest.model, received(path, manifest, key))


def _further(subject: OnnxFile | Subject) -> dict[str, bytes]:
    """What ``export`` writes beside files of the target, by name."""
    if isinstance(subject, OnnxFile):
        return {}
    name = subject.path.name.removesuffix(subject.target.suffix)
    return {name + end: data for end, data in subject.target.beside(subject.content).items()}


def _outputs(subject: OnnxFile | Subject, product: Product, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What a device has to compute: the integer model's outputs, or those of the runtime that was compared with it."""
    try:
        if isinstance(subject, OnnxFile):
            return _in_onnx_runtime(subject.data, inputs)
        if subject.expected is not None:
            return outputs_of(subject.expected.frozen, subject.record, inputs)
        with TargetProcess(subject.target, subject.path) as running:
            return running.run(inputs)
    except RuntimeFault as error:
        raise _cannot_run(product.title, product.name, error) from error


def _decoded(title: str, name: str, content: bytes, outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the file that decodes makes of the model's outputs."""
    try:
        return _in_onnx_runtime(content, outputs)
    except RuntimeFault as error:
        raise _cannot_run(title, name, error) from error


def _cannot_run(title: str, name: str, error: RuntimeFault) -> UserError:
    return UserError(f"{title} cannot run {name} ({error}); export it again")


def _in_onnx_runtime(model: bytes, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    session = OnnxRuntime().session(model, precise=True)
    return [*session.run({end.name: array for end, array in zip(session.inputs, inputs, strict=True)}).values()]
