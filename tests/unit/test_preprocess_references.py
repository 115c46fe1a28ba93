"""Pixels as transformers' image processors and segment_anything make them, bit by bit."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import skimage.data
import transformers
from numpy.typing import NDArray
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide

from modelmora.domain.preprocess import Preprocess
from runners.preprocess import prepare_image

SIZES = [
    (512, 512),
    (600, 400),
    (451, 300),
    (300, 451),
    (427, 640),
    (97, 401),
    (61, 47),
    (31, 33),
    (224, 224),
    (257, 256),
]


def photographs() -> list[Image.Image]:
    return [Image.fromarray(getattr(skimage.data, name)()) for name in ("astronaut", "coffee", "chelsea", "rocket")]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """As they are, and at sizes whose halves and thirds are odd."""
    whole = photographs()
    scaled = [whole[n % 4].resize(size, Image.Resampling.LANCZOS) for n, size in enumerate(SIZES)]
    return [*whole, *scaled]


def ours(picture: Image.Image, how: Preprocess) -> NDArray[np.uint8]:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return prepare_image(file.getvalue(), how)


def theirs(picture: Image.Image, processor: str, **values: Any) -> NDArray[np.uint8]:
    """The bytes before a processor scales and normalises them."""
    made = getattr(transformers, f"{processor}ImageProcessorPil")(do_rescale=False, do_normalize=False, **values)
    pixels: NDArray[np.uint8] = made(picture, return_tensors="np")["pixel_values"][0]
    return np.moveaxis(pixels, 0, 2)


FILTERS: dict[Any, int] = {"nearest": 0, "bilinear": 2, "bicubic": 3}


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    ("edge", "crop"), [(256, (224, 224)), (224, (224, 224)), (257, (224, 224)), (40, (33, 28)), (64, (63, 64))]
)
def test_the_centre_of_a_scaled_picture_is_that_of_bits_processor(
    edge: int, crop: tuple[int, int], interpolation: Any, pictures: list[Image.Image]
) -> None:
    height, width = crop
    how = Preprocess(resize="shortest", height=height, width=width, shortest=edge, interpolation=interpolation)
    values = {"size": {"shortest_edge": edge}, "crop_size": {"height": height, "width": width}}
    for picture in pictures:
        expected = theirs(picture, "Bit", resample=FILTERS[interpolation], **values)
        np.testing.assert_array_equal(ours(picture, how), expected)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (384, 384), (33, 47)])
def test_a_squashed_picture_is_that_of_vits_processor(height: int, width: int, pictures: list[Image.Image]) -> None:
    how = Preprocess(resize="exact", height=height, width=width, interpolation="bilinear")
    for picture in pictures:
        expected = theirs(picture, "ViT", size={"height": height, "width": width})
        np.testing.assert_array_equal(ours(picture, how), expected)


@pytest.mark.parametrize(("side", "crop"), [(256, 224), (37, 32)])
def test_the_centre_of_a_squashed_picture_is_that_of_deits_processor(
    side: int, crop: int, pictures: list[Image.Image]
) -> None:
    how = Preprocess(resize="exact", height=crop, width=crop, shortest=side)
    for picture in pictures:
        expected = theirs(picture, "DeiT", size=side, crop_size=crop)
        np.testing.assert_array_equal(ours(picture, how), expected)


@pytest.mark.parametrize(("edge", "share"), [(224, 0.875), (224, 0.95), (288, 0.9), (33, 224 / 256)])
def test_a_share_of_a_picture_is_that_of_convnexts_processor(
    edge: int, share: float, pictures: list[Image.Image]
) -> None:
    how = Preprocess(resize="shortest", height=edge, width=edge, shortest=int(edge / share))
    for picture in pictures:
        expected = theirs(picture, "ConvNext", size={"shortest_edge": edge}, crop_pct=share)
        np.testing.assert_array_equal(ours(picture, how), expected)


def test_a_crop_larger_than_the_picture_has_black_around_it_as_theirs_has(pictures: list[Image.Image]) -> None:
    how = Preprocess(resize="shortest", height=64, width=75, shortest=48)
    for picture in pictures:
        values = {"size": {"shortest_edge": 48}, "crop_size": {"height": 64, "width": 75}}
        np.testing.assert_array_equal(ours(picture, how), theirs(picture, "Bit", **values))


@pytest.mark.parametrize("size", [(3000, 20), (20, 3000), (4000, 1), (1, 4000)])
@pytest.mark.parametrize(("edge", "crop"), [(72, 64), (48, 64)])
def test_of_a_very_long_picture_the_centre_is_theirs_within_two_grey_levels(
    size: tuple[int, int], edge: int, crop: int
) -> None:
    long = photographs()[0].resize(size, Image.Resampling.BICUBIC)
    found = ours(long, Preprocess(resize="shortest", height=crop, width=crop, shortest=edge)).astype(int)
    expected = theirs(long, "Bit", size={"shortest_edge": edge}, crop_size={"height": crop, "width": crop})
    assert np.abs(found - expected).max() <= 2


@pytest.mark.parametrize("side", [1024, 256, 33])
def test_the_longest_side_without_padding_is_that_of_segment_anything(side: int, pictures: list[Image.Image]) -> None:
    how = Preprocess(resize="longest", height=side, width=side, interpolation="bilinear", pad=False)
    for picture in pictures:
        expected = ResizeLongestSide(side).apply_image(np.asarray(picture))
        np.testing.assert_array_equal(ours(picture, how), expected)


def test_a_side_that_would_vanish_keeps_one_pixel() -> None:
    how = Preprocess(resize="longest", height=64, width=64, interpolation="bilinear", pad=False)
    assert ours(Image.new("RGB", (20_000, 1), (200, 100, 50)), how).shape == (1, 64, 3)
