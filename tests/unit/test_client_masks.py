"""The client reads COCO's run lengths as COCO's own library writes them."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from skimage import data

from modelmora.client import Box, Mask
from modelmora.errors import InternalError


def mask_of(pixels: NDArray[Any]) -> Mask:
    """As a server sends it."""
    height, width = pixels.shape
    counts = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"]
    return sent(counts, height=height, width=width)


def sent(counts: bytes, *, height: int, width: int) -> Mask:
    box = Box(left=0, top=0, right=1, bottom=1)
    return Mask(counts=counts, height=height, width=width, score=1.0, area=0, box=box)


@given(arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_any_mask_is_read_as_it_was_drawn(pixels: NDArray[np.bool_]) -> None:
    mask = mask_of(pixels)
    assert np.array_equal(mask.to_array(), pixels)
    assert mask.to_bytes() == pixels.astype(np.uint8).tobytes()
    assert np.array_equal(np.array(Image.open(io.BytesIO(mask.to_png()))), pixels)
    assert np.array_equal(coco.decode(mask.rle), pixels)


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (480, 640)])
def test_masks_of_nothing_and_of_all_are_read(shape: tuple[int, int], value: int) -> None:
    pixels = np.full(shape, value, dtype=np.bool_)
    assert np.array_equal(mask_of(pixels).to_array(), pixels)
    assert np.array_equal(np.array(Image.open(io.BytesIO(mask_of(pixels).to_png()))), pixels)


def test_a_real_mask_of_many_runs_is_read() -> None:
    pixels = data.coins() > 120  # type: ignore[no-untyped-call]
    mask = mask_of(pixels)
    assert np.array_equal(mask.to_array(), pixels)
    assert np.array_equal(np.array(Image.open(io.BytesIO(mask.to_png()))), pixels)


def test_a_large_picture_is_written_while_one_waits() -> None:
    rows, columns = np.ogrid[:4000, :6000]
    disc = (rows - 2000) ** 2 + (columns - 3000) ** 2 < 1_500**2
    began = time.monotonic()
    file = mask_of(disc).to_png()
    assert time.monotonic() - began < 10  # some 0.6 s; a loop over pixels in Python takes longer
    with Image.open(io.BytesIO(file)) as picture:
        assert (picture.size, picture.mode) == ((6000, 4000), "1")


@pytest.mark.parametrize(
    ("counts", "height", "width"),
    [
        (b"", 2, 4),
        (b"08", 2, 3),
        (b"08", 2, 400_000_000),
        (b"P", 2, 4),  # another character is due
        (b"0PPPPPPPPPPP", 2, 4),
        (b"@8", 2, 4),  # less than none
        (b"08\xff", 2, 4),
        (b"P" * 2_000_000, 2, 4),  # a number without end
    ],
)
def test_what_is_no_mask_of_its_size_is_the_servers_defect(counts: bytes, height: int, width: int) -> None:
    mask = sent(counts, height=height, width=width)
    for read in (mask.to_array, mask.to_png, mask.to_bytes):
        with pytest.raises(InternalError, match="no mask of"):
            read()


def test_a_picture_without_pixels_has_no_file() -> None:
    with pytest.raises(InternalError, match="at least a pixel"):
        sent(b"", height=0, width=0).to_png()
