"""What the networks of a run expect of their images: as the user says, their weights record, or their factory knows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import torch

from qkd_deploy.checkpoints.checkpoint import load_checkpoint
from qkd_deploy.data import ImageDataset
from qkd_deploy.distill.phases import Role
from qkd_deploy.errors import UserError
from qkd_deploy.models import create_model
from qkd_deploy.pixels.normalization import CENTERED, Normalization
from qkd_deploy.pixels.preprocessing import Preprocessing, expected_by
from qkd_deploy.training.groups import DataSource
from qkd_deploy.training.networks import NetworkSource

_CLASSES, _CHANNELS = 1000, 3
"""Of a network that is built only to be asked what it expects."""


@dataclass(frozen=True)
class Expectations:
    """The pre-processing of a run.

    Attributes:
        images: what is done to the images; complete but for ``crop_pct``.
        networks: by role, the normalisation that a network was made for.
        said_by: who names the normalisation.
        warning: a sentence for the user where weights may have been trained on other pixels; "" elsewhere.
    """

    images: Preprocessing
    networks: Mapping[Role, Normalization]
    said_by: Literal["user", "networks", "nobody"]
    warning: str = ""

    @property
    def normalization(self) -> Normalization:
        """What the images are normalised by."""
        assert self.images.normalization is not None
        return self.images.normalization

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user should know, in sentences; none where images are as those of this package's own networks."""
        said = "" if self.normalization == CENTERED else f"images are normalised by {self.normalization}"
        return tuple(filter(None, (said, self.warning)))

    def fitting(self, dataset: ImageDataset) -> Expectations:
        """Leave out what networks say about images of other channels; the data set's own normalisation comes last."""
        if self.said_by == "user":
            return self
        own, known = dataset.normalization, self.said_by == "networks"

        def fits(found: Normalization) -> bool:
            return known and found.channels in (1, dataset.in_channels)

        fitting = self.normalization if fits(self.normalization) else own
        networks = {role: found if fits(found) else fitting for role, found in self.networks.items()}
        warning = self.warning if own == CENTERED else ""
        return replace(self, images=replace(self.images, normalization=fitting), networks=networks, warning=warning)


def named_in(source: DataSource) -> Preprocessing:
    """Read what the user names, and nothing where that is ``auto``.

    Raises:
        UserError: a normalisation that cannot be read.
    """
    return Preprocessing(
        None if source.normalization == "auto" else Normalization.parse(source.normalization),
        None if source.interpolation == "auto" else source.interpolation,
        source.crop_pct,
        None if source.fit == "auto" else source.fit,
    )


def expectations(source: DataSource, networks: Mapping[Role, NetworkSource]) -> Expectations:
    """Decide how images are pre-processed for networks; the student is asked first.

    What the user names holds for all networks. Otherwise weights of this package know what they were trained on; timm's
    networks carry ``pretrained_cfg``; and networks of which nothing is known take what the data set says, which is
    ``(pixel - 128) / 64`` unless its factory chose another one.

    Args:
        source: the settings.
        networks: where the networks come from, by role.

    Raises:
        UserError: a normalisation that cannot be read.
    """
    given = named_in(source)
    known = Preprocessing()
    said: dict[Role, Preprocessing] = {}
    for role in sorted(networks, key=lambda role: role != "student"):
        complete = None not in (given.normalization, given.interpolation, given.crop_pct)
        said[role] = Preprocessing() if complete else _of(networks[role])
        known = known.otherwise(said[role])
    images = given.otherwise(known).otherwise(Preprocessing(CENTERED, "bilinear"))
    assert images.normalization is not None
    own = {role: given.normalization or found.normalization or images.normalization for role, found in said.items()}
    if given.normalization is not None:
        return Expectations(images, own, "user")
    if known.normalization is not None:
        return Expectations(images, own, "networks")
    return Expectations(images, own, "nobody", _warning(networks))


def _of(source: NetworkSource) -> Preprocessing:
    return _recorded(source).otherwise(_of_factory(source))


def _recorded(source: NetworkSource) -> Preprocessing:
    """What a checkpoint of this package was trained on."""
    if source.weights is not None:
        with suppress(UserError):  # a file of another kind, or one that is reported where its weights are read
            return Preprocessing(Normalization.of_entry(load_checkpoint(source.weights).dataset.normalization))
    return Preprocessing()


def _of_factory(source: NetworkSource) -> Preprocessing:
    """What the network of the user's factory says; nothing where it cannot be built for photographs."""
    if ":" in source.name:
        with suppress(UserError), torch.random.fork_rng(devices=[]):
            return expected_by(create_model(source.name, _CLASSES, _CHANNELS, source.args))
    return Preprocessing()


def _warning(networks: Mapping[Role, NetworkSource]) -> str:
    for source in networks.values():
        if ":" in source.name and source.weights is not None:
            return (
                f"{source.name}: nothing says how the pixels of its weights were normalised, so it gets "
                "(pixel - 128) / 64; where that is wrong, name it, such as --normalization imagenet"
            )
    return ""
