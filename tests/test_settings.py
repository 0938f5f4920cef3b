"""How settings are declared and validated, and that every one says all of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import Field, NonNegativeFloat

from qkd_deploy.data.augment.presets import PRESETS
from qkd_deploy.distill.gslr import DECAYS
from qkd_deploy.errors import UserError
from qkd_deploy.graph.placement.settings import QuantizationSettings
from qkd_deploy.quantizers.registry import QUANTIZERS
from qkd_deploy.quantizers.scale_search import METHODS
from qkd_deploy.quantizers.settings import QUANTIZER_NAMES, SCALE_METHODS
from qkd_deploy.settings import Epochs, Names, OneOf, Settings, declarations
from qkd_deploy.training.config import TrainConfig
from qkd_deploy.verification.settings import VerifyOptions
from qkd_deploy.workflows.settings import PostTraining, SensitivityData

CLASSES = (TrainConfig, PostTraining, SensitivityData, QuantizationSettings, VerifyOptions)


@dataclass(frozen=True, kw_only=True)
class Sample(Settings):
    group = "things"

    rate: Annotated[NonNegativeFloat, "A rate."] = 0.5
    share: Annotated[float, Field(ge=0, le=0.9), "A share."] = 0.0
    count: Annotated[int, Field(ge=2), "A count."] = 2
    on: Annotated[bool, "A switch."] = False
    word: Annotated[str, OneOf("wide", "narrow"), "A word."] = "wide"
    path: Annotated[str | None, "A path."] = None
    names: Annotated[Names, "Names."] = ()
    epochs: Annotated[Epochs, "Epochs."] = (1,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": -1}, "rate is -1; it must be a number at least 0"),
        ({"rate": "fast"}, "rate is 'fast'; it must be a number"),
        ({"rate": True}, "rate is True; it must be a number"),
        ({"rate": float("nan")}, "rate is nan; it must be a number at least 0"),
        ({"rate": float("inf")}, "rate is inf; it must be a number at least 0"),
        ({"share": 1}, "share is 1; it must be a number at least 0 and at most 0.9"),
        ({"count": 1.0}, "count is 1.0; it must be a whole number"),
        ({"count": "3"}, "count is '3'; it must be a whole number"),
        ({"count": 1}, "count is 1; it must be a number at least 2"),
        ({"on": 1}, "on is 1; it must be true or false"),
        ({"word": "wdie"}, "word is 'wdie'; did you mean 'wide'? choose one of wide, narrow"),
        ({"word": 3}, "word is 3; choose one of wide, narrow"),
        ({"path": 3}, "path is 3; it must be text"),
        ({"names": "a,b"}, "names is 'a,b'; it must be a list of names"),
        ({"names": ["a", 3]}, "names is ['a', 3]; it must be a list of names"),
        (
            {"epochs": [1.5]},
            "epochs is [1.5]; give one number, or one per phase such as 30,100,70, each of at most 100000",
        ),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_right(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Sample(**given)
    assert str(caught.value) == message


def test_values_are_converted_where_nothing_is_lost() -> None:
    sample = Sample(rate=1, names=["a", "b"], epochs=3)  # type: ignore[arg-type]
    assert (sample.rate, type(sample.rate), sample.names, sample.epochs) == (1.0, float, ("a", "b"), (3,))


def test_a_declaration_says_everything_about_a_setting() -> None:
    share, word = declarations(Sample)[1], declarations(Sample)[4]
    assert (share.name, share.type, share.default, share.help, share.group) == (
        "share",
        float,
        0.0,
        "A share.",
        "things",
    )
    assert share.bounds == {"ge": 0, "le": 0.9}
    assert word.choices == ("wide", "narrow")


@pytest.mark.parametrize("kind", CLASSES)
def test_every_setting_has_help_and_a_group(kind: type[Settings]) -> None:
    for declared in declarations(kind):
        assert declared.help.endswith("."), declared.name
        assert declared.group, declared.name
        if declared.type in (int, float):
            assert declared.bounds, declared.name


def test_choices_are_those_that_exist() -> None:
    choices = {declared.name: declared.choices for declared in declarations(TrainConfig)}
    assert tuple(QUANTIZERS) == QUANTIZER_NAMES
    assert choices["quantizer"] == ("auto", *QUANTIZERS)
    assert METHODS == SCALE_METHODS
    assert choices["augmentation"] == (*PRESETS, "mosaic")
    assert choices["soft_loss_decay"] == tuple(DECAYS)
