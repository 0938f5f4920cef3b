"""Puts a bundle together, and on the disk: whole, or not at all."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from qkd_deploy.atomic import atomic_folder
from qkd_deploy.errors import UserError, printable
from qkd_deploy.handoff.card import model_card
from qkd_deploy.handoff.golden import GoldenSet, golden_files
from qkd_deploy.handoff.manifest import MANIFEST, SIGNATURE, is_bundle, manifest_of, read_manifest, strangers
from qkd_deploy.handoff.preprocessing import preprocessing_files
from qkd_deploy.handoff.product import Product
from qkd_deploy.handoff.signature import PrivateKey
from qkd_deploy.handoff.templates import rendered
from qkd_deploy.verification.report import VerificationReport


def bundle_files(
    product: Product,
    report: VerificationReport,
    golden: Mapping[str, GoldenSet],
    *,
    further: Mapping[str, bytes] | None = None,
    licence: str = "",
    key: PrivateKey | None = None,
) -> dict[str, bytes]:
    """Every file of a bundle by its name.

    Args:
        product: what is handed over.
        report: of its verification, which it passed.
        golden: inputs and outputs that devices replay.
        further: files that lie beside the model, by name.
        licence: for the card.
        key: signs; None leaves the bundle unsigned.

    Raises:
        UserError: there is nothing to replay.
    """
    if not golden:
        raise UserError(
            f"{product.name} holds no golden inputs that a device could replay; give images, --dataset NAME "
            "(data= in Python)"
        )
    files = {product.name: product.content, **(further or {})}
    if product.decode is not None:
        files |= [product.decode]
    if product.metadata.classes is not None:
        files["labels.txt"] = "".join(f"{printable(name, keep='')}\n" for name in product.metadata.classes).encode()
    files |= preprocessing_files(product)
    files |= golden_files(golden, product.outputs)
    files["check.py"] = check_script(product).encode()
    files["MODEL_CARD.md"] = model_card(
        product, report, golden, licence, files=files, further=[*(further or {})], signed=key is not None
    )
    files[MANIFEST] = manifest_of(product, files, golden)
    if key is not None:
        files[SIGNATURE] = key.signature(files[MANIFEST])
    return files


def check_script(product: Product) -> str:
    """The program that replays the golden inputs, for one target.

    Raises:
        UserError: the target's part of it is no Python.
    """
    model, title = (
        printable(text, keep="").replace('"', "'").replace("\\", "/") for text in (product.name, product.title)
    )
    text = rendered("check.py.jinja", model=model, title=title, target=product.target, session=product.session.strip())
    try:
        ast.parse(text)
    except SyntaxError as error:
        raise UserError(f"check_session of the target {product.target} is no Python ({error}); correct it") from error
    return text


def require_place(output: Path) -> None:
    """Refuse a place for a bundle that holds something else.

    Raises:
        UserError: it is a file, or a folder with files that no bundle has.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"cannot write {output}: it is a file; name a folder with --out")
    if is_bundle(output):
        others = strangers(output, read_manifest(output))
        if others:
            raise UserError(
                f"{output} is a bundle in which {others[0]} lies, which would be lost; move it, or name another --out"
            )
    elif any(output.iterdir()):
        raise UserError(f"{output} holds files, and is no bundle that could be replaced; name another --out")


def write_bundle(files: Mapping[str, bytes], output: Path) -> None:
    """Write a bundle, in place of an earlier one.

    Raises:
        UserError: as ``require_place``, or the folder cannot be written.
    """
    require_place(output)
    with atomic_folder(output) as temporary:
        for name, data in files.items():
            file = temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
