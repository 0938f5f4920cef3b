from __future__ import annotations

from importlib import resources

import torch

from qkd_deploy.data import load_dataset


def test_digits_have_the_documented_content() -> None:
    digits = load_dataset("digits")
    assert digits.known_as == "digits"
    assert digits.train.images.shape == (1438, 1, 8, 8)
    assert digits.test.images.shape == (359, 1, 8, 8)
    assert digits.classes == tuple("0123456789")
    values = torch.unique(torch.cat([digits.train.images, digits.test.images]))
    assert values.tolist() == [15 * count for count in range(17)]


def test_the_split_is_stratified_and_no_image_is_in_both_parts() -> None:
    digits = load_dataset("digits")
    train, test = digits.train.labels.bincount(), digits.test.labels.bincount()
    assert ((train + test) // 5 - test).abs().max() <= 1
    both = torch.cat([digits.train.images, digits.test.images]).flatten(1)
    assert len(torch.unique(both, dim=0)) == len(both)


def test_the_first_images_are_those_of_the_original() -> None:
    # The original begins with 0, 1, 2, ...; this is the first row of counts of its very first image.
    first = load_dataset("digits").train.images[0, 0]
    assert (first[0] // 15).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert load_dataset("digits").train.labels[:10].tolist() == list(range(10))


def test_digits_are_neither_mirrored_nor_framed_in_grey() -> None:
    augmentation = load_dataset("digits").augmentation
    assert not augmentation.flip
    assert augmentation.fill == 0


def test_the_attribution_lies_beside_the_file() -> None:
    text = resources.files("qkd_deploy.data.sets").joinpath("digits_attribution.txt").read_text()
    assert "Alpaydin" in text
    assert "CC BY 4.0" in text
