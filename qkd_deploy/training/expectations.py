"""What the networks of a run expect of their images: as the user says, their weights record, or their factory knows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from qkd_deploy.checkpoints.checkpoint import load_checkpoint
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
        named: whether the user named the normalisation.
        warning: a sentence for the user where weights may have been trained on other pixels; "" elsewhere.
    """

    images: Preprocessing
    networks: Mapping[Role, Normalization]
    named: bool
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

    def fitting(self, channels: int) -> Expectations:
        """Leave out what networks say about images of another number of channels; what the user names stays."""
        fits = {role: found.channels in (1, channels) for role, found in self.networks.items()}
        if self.named or all(fits.values()):
            return self
        fitting = self.normalization if self.normalization.channels in (1, channels) else CENTERED
        own = {role: found if fits[role] else fitting for role, found in self.networks.items()}
        return replace(self, images=replace(self.images, normalization=fitting), networks=own)


def named_in(source: DataSource) -> Preprocessing:
    """Read what the user names, and nothing where that is ``auto``.

    Raises:
        UserError: a normalisation that cannot be read.
    """
    return Preprocessing(
        None if source.normalization == "auto" else Normalization.parse(source.normalization),
        None if source.interpolation == "auto" else source.interpolation,
        source.crop_pct,
    )


def expectations(source: DataSource, networks: Mapping[Role, NetworkSource]) -> Expectations:
    """Decide how images are pre-processed for networks; the student is asked first.

    What the user names holds for all networks. Otherwise weights of this package know what they were trained on; timm's
    networks carry ``pretrained_cfg``; and networks of which nothing is known take ``(pixel - 128) / 64``.

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
    unknown = given.normalization is None and known.normalization is None
    return Expectations(images, own, given.normalization is not None, _warning(networks) if unknown else "")


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
