"""What a look at a picture tells, and what it refuses."""

from __future__ import annotations

import io

import pytest
from PIL import ExifTags, Image

from modelmora.errors import InvalidInput, LimitExceeded, UnsupportedMedia
from runners.looks import EDGE, look_at
from tests.pictures import drawing


def seen(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(look_at(data, max_pixels=10**8).thumbnail))


def test_kind_and_size_come_from_the_bytes() -> None:
    for format_, type_ in (("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/gif")):
        look = look_at(drawing(size=40, format_=format_), max_pixels=10**6)
        assert (look.content_type, look.width, look.height) == (type_, 40, 40)


def test_a_thumbnail_is_upright_and_keeps_its_shape() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (1200, 600), "red").save(file, "JPEG", exif=exif)
    look = look_at(file.getvalue(), max_pixels=10**8)
    assert (look.width, look.height) == (600, 1200)
    thumbnail = seen(file.getvalue())
    assert (thumbnail.format, thumbnail.size) == ("WEBP", (EDGE // 2, EDGE))


def test_small_pictures_are_not_enlarged_and_nothing_shows_through() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (3, 2), (0, 0, 0, 0)).save(file, "PNG")
    thumbnail = seen(file.getvalue())
    assert thumbnail.size == (3, 2)
    assert all(value > 250 for value in thumbnail.convert("RGB").getpixel((1, 1)))  # type: ignore[union-attr] # RGB


@pytest.mark.parametrize("data", [b"", drawing(format_="JPEG")[:-200], drawing()[:60]])
def test_what_is_damaged_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        look_at(data, max_pixels=10**6)


def test_what_is_no_picture_is_refused_and_so_is_what_is_too_large() -> None:
    with pytest.raises(UnsupportedMedia):
        look_at(b"<svg onload=alert(1)>", max_pixels=10**6)
    with pytest.raises(LimitExceeded):
        look_at(drawing(size=40), max_pixels=100)
