from __future__ import annotations

import importlib
import io
from pathlib import Path

import numpy as np
import pytest
import timm_models
from hypothesis import given
from hypothesis import strategies as st
from image_files import picture
from PIL import Image

from qkd_deploy.data import ResizedCrop
from qkd_deploy.data.images.decode import Unreadable, View, is_grey, open_image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_files_of_the_wanted_size_keep_every_pixel(kind: str, options: dict[str, object]) -> None:
    image = picture(1)
    pixels = View(3, 12, 12).of(open_image(encoded(image, kind, **options)))
    assert np.array_equal(pixels, np.asarray(image).transpose(2, 0, 1))


def test_jpegs_are_decoded_from_paths_too(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(picture(2), "JPEG"))
    assert View(3, 12, 12).of(open_image(tmp_path / "a.jpg")).shape == (3, 12, 12)


def test_the_view_is_the_middle_of_the_image_brought_to_size() -> None:
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = 200  # the middle third, 20 x 20
    image = Image.fromarray(pixels)
    inner = slice(2, -2)  # at the border, interpolation looks beyond the box
    for shown in (image, image.transpose(Image.Transpose.ROTATE_90)):
        for size in (10, 20, 40):
            pixels = View(3, size, size).of(shown)
            assert (pixels[:, inner, inner] == 200).all() and pixels.min() > 100 - 1
    assert np.array_equal(View(3, 20, 20).of(image)[0], np.full((20, 20), 200))


def test_a_crop_takes_the_box_that_it_drew() -> None:
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[10:, 30:] = 100
    corner = ResizedCrop(area=(0.125, 0.125), ratio=1.0)  # 10 x 10 of 20 x 40
    view, image = View(3, 8, 8), Image.fromarray(pixels)
    assert (view.of(image, corner, (0.5, 0.5, 1.0, 1.0))[:, 1:, 1:] == 100).all()
    assert (view.of(image, corner, (0.5, 0.5, 0.0, 0.0)) == 0).all()


def test_grey_becomes_colour_and_colour_grey() -> None:
    grey = picture(3, mode="L")
    assert is_grey(open_image(encoded(grey, "PNG")))
    rgb = View(3, 12, 12).of(open_image(encoded(grey, "PNG")))
    assert all(np.array_equal(plane, np.asarray(grey)) for plane in rgb)
    colour = picture(3)
    assert np.array_equal(View(1, 12, 12).of(colour)[0], np.asarray(colour.convert("L")))


def test_sixteen_bit_greys_keep_their_high_byte() -> None:
    values = np.linspace(0, 65535, 144).round().astype(np.uint16).reshape(12, 12)
    image = open_image(encoded(Image.fromarray(values), "PNG"))
    pixels = View(1, 12, 12).of(image)[0]
    assert is_grey(image)
    assert np.array_equal(pixels, np.rint(values / 257).astype(np.uint8))


def test_transparency_shows_white() -> None:
    values = np.zeros((12, 12, 4), dtype=np.uint8)
    values[:, :6] = (10, 20, 30, 255)
    pixels = View(3, 12, 12).of(open_image(encoded(Image.fromarray(values), "PNG")))
    assert (pixels[:, :, 6:] == 255).all()
    assert [int(plane[0, 0]) for plane in pixels] == [10, 20, 30]
    palette = picture(5).quantize(4)
    shown = View(3, 12, 12).of(open_image(encoded(palette, "PNG", transparency=0)))
    hidden = np.asarray(palette) == 0
    assert hidden.any() and (shown[:, hidden] == 255).all()


def test_cmyk_jpegs_are_converted() -> None:
    white = Image.new("CMYK", (12, 12), (0, 0, 0, 0))
    assert (View(3, 12, 12).of(open_image(encoded(white, "JPEG"))) == 255).all()


def test_photographs_are_turned_upright() -> None:
    image, exif = Image.new("RGB", (12, 6)), Image.Exif()
    image.paste((250, 250, 250), (0, 0, 6, 6))
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    turned = open_image(encoded(image, "PNG", exif=exif))
    assert turned.size == (6, 12)
    assert np.asarray(turned)[:6].min() == 250 and np.asarray(turned)[6:].max() == 0


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff"])
def test_other_files_are_unreadable(content: bytes) -> None:
    with pytest.raises(Unreadable):
        open_image(content)


def test_other_formats_are_refused_whatever_their_name(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.bmp")
    (tmp_path / "a.bmp").rename(tmp_path / "a.png")
    with pytest.raises(Unreadable, match="no JPEG, PNG or WebP image"):
        open_image(tmp_path / "a.png")
    with pytest.raises(Unreadable, match="No such file"):
        open_image(tmp_path / "missing.png")


WHOLE = {kind: encoded(picture(7, (40, 40)), kind) for kind in ("JPEG", "PNG", "WEBP")}


@given(
    kind=st.sampled_from(sorted(WHOLE)),
    place=st.floats(0, 1),
    change=st.binary(min_size=1, max_size=8),
    cut=st.booleans(),
)
def test_damage_is_always_unreadable_or_still_an_image(kind: str, place: float, change: bytes, cut: bool) -> None:
    content = WHOLE[kind]
    start = int(place * len(content))
    damaged = content[:start] if cut else content[:start] + change + content[start + len(change) :]
    try:
        pixels = View(3, 12, 12).of(open_image(damaged))
    except Unreadable as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert pixels.shape == (3, 12, 12)


# -- evaluation as torchvision and timm do it --------------------------------------------------------------------------

SHAPES = [(320, 256), (256, 320), (301, 257), (256, 256), (70, 500), (50, 41), (224, 224)]
VIEWS = [(224, "bicubic", 0.875), (224, "bilinear", 0.95), (32, "bicubic", 1.0), (33, "bilinear", 0.9)]


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize(("side", "interpolation", "crop_pct"), VIEWS)
def test_the_short_side_is_resized_and_the_middle_cut_out(
    size: tuple[int, int], side: int, interpolation: str, crop_pct: float
) -> None:
    """The calls of Pillow that torchvision's ``Resize`` and ``CenterCrop`` document, one after the other."""
    image, (width, height) = picture(5, size), size
    short = int(side / crop_pct)
    scaled = (short, int(short * height / width)) if width < height else (int(short * width / height), short)
    method = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[interpolation]
    resized = image.resize(scaled, method)
    left, top = (round((length - side) / 2.0) for length in scaled)
    expected = np.asarray(resized)[top : top + side, left : left + side].transpose(2, 0, 1)
    assert np.array_equal(View(3, side, side, interpolation, crop_pct).of(image), expected)


@pytest.mark.skipif(bool(timm_models.missing()), reason=timm_models.missing())
@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize(("side", "interpolation", "crop_pct"), VIEWS)
def test_pixels_are_those_of_timm(size: tuple[int, int], side: int, interpolation: str, crop_pct: float) -> None:
    create = importlib.import_module("timm.data").create_transform
    shape, plain = (3, side, side), {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    theirs = create(input_size=shape, interpolation=interpolation, crop_pct=crop_pct, **plain)(picture(6, size))
    ours = View(*shape, interpolation, crop_pct).of(picture(6, size))
    assert np.array_equal(ours, np.rint(theirs.numpy() * 255).astype(np.uint8))


def test_other_views_are_named() -> None:
    assert View(3, 8, 8).named() == {}
    assert View(3, 8, 8, "bicubic", 0.9).named() == {"interpolation": "bicubic", "crop_pct": 0.9}
