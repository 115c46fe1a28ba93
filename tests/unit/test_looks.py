"""What a look at a picture tells, and what it refuses."""

from __future__ import annotations

import asyncio
import io
import random
import struct
import time
import zlib
from collections.abc import Callable
from typing import TypeVar

import pytest
from PIL import ExifTags, Image

from modelmora.errors import DeadlineExceeded, InputError, InvalidInput, LimitExceeded, Overloaded, UnsupportedMedia
from runners.inputs.pictures import decode
from runners.looks import EDGE, Looks, look_at
from tests.pictures import drawing

T = TypeVar("T")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF", "BMP")


class Held:
    """Decode threads that begin nothing before they are let."""

    def __init__(self) -> None:
        self.let, self.asked, self.bulk = asyncio.Event(), asyncio.Event(), False

    async def in_turn(self, bulk: bool, prepare: Callable[[], T]) -> T:
        self.bulk = bulk
        self.asked.set()
        await self.let.wait()
        return prepare()


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


def test_every_kind_that_is_embedded_is_told_by_its_bytes() -> None:
    told = {format_: look_at(drawing(size=40, format_=format_), max_pixels=10**6).content_type for format_ in FORMATS}
    assert told == {format_: f"image/{format_.lower()}" for format_ in FORMATS}


def test_of_an_animation_the_first_frame_is_shown() -> None:
    file = io.BytesIO()
    first, second = (Image.new("RGB", (20, 10), colour) for colour in ("red", "blue"))
    first.save(file, "GIF", save_all=True, append_images=[second])
    red, _, blue = seen(file.getvalue()).convert("RGB").getpixel((10, 5))  # type: ignore[misc] # RGB
    assert red > 200
    assert blue < 60


def test_deep_grey_is_scaled_and_not_clipped() -> None:
    file = io.BytesIO()
    Image.new("I;16", (8, 8), 0x8000).save(file, "PNG")
    value = seen(file.getvalue()).convert("L").getpixel((4, 4))
    assert isinstance(value, int)
    assert 120 <= value <= 136


def test_a_line_is_shown_as_a_line() -> None:
    file = io.BytesIO()
    Image.new("L", (20_000, 1), 80).save(file, "PNG")
    look = look_at(file.getvalue(), max_pixels=10**6)
    assert (look.width, look.height) == (20_000, 1)
    assert seen(file.getvalue()).size == (EDGE, 1)


def test_pixels_are_counted_by_the_header_before_any_is_decoded() -> None:
    """A file of 70 bytes that says it is four billion pixels."""
    header = struct.pack(">IIBBBBB", 65_000, 65_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    body = b"IDAT" + zlib.compress(b"")
    bomb += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    started = time.thread_time()
    with pytest.raises(LimitExceeded, match="65000x65000"):
        look_at(bomb, max_pixels=50_000_000)
    assert time.thread_time() - started < 0.5


@pytest.mark.parametrize("format_", FORMATS)
def test_whatever_is_done_to_a_file_it_is_looked_at_or_refused(format_: str) -> None:
    """Bits flipped, bytes cut out, the end cut off: an answer, or an error that says so, and the same as embedding."""
    chance, whole = random.Random(7), drawing(size=48, format_=format_)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        start = chance.randrange(len(data))
        del data[start : start + chance.choice((0, 0, 1, 40))]
        try:
            look = look_at(bytes(data), max_pixels=10**6)
            assert look.width * look.height <= 10**6
        except InputError:
            refused += 1
            with pytest.raises(InputError):
                decode(bytes(data), max_pixels=10**6)
    assert refused


async def test_a_look_takes_its_turn_behind_what_callers_wait_for() -> None:
    threads = Held()
    threads.let.set()
    look = await Looks(threads, max_pixels=10**6).look(drawing(size=40), deadline=time.monotonic() + 60)
    assert (look.width, threads.bulk) == (40, True)


async def test_no_more_than_so_many_wait() -> None:
    threads, far = Held(), time.monotonic() + 60
    looks = Looks(threads, max_pixels=10**6, waiting=1)
    first = asyncio.create_task(looks.look(drawing(), deadline=far))
    await threads.asked.wait()
    with pytest.raises(Overloaded, match="1 pictures wait") as refused:
        await looks.look(drawing(), deadline=far)
    assert refused.value.retry_after_s == 1.0
    threads.let.set()
    await first
    assert (await looks.look(drawing(size=30), deadline=far)).width == 30


async def test_whoever_leaves_makes_room() -> None:
    threads, far = Held(), time.monotonic() + 60
    looks = Looks(threads, max_pixels=10**6, waiting=1)
    first = asyncio.create_task(looks.look(drawing(), deadline=far))
    await threads.asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    threads.let.set()
    assert (await looks.look(drawing(size=30), deadline=far)).width == 30


async def test_a_deadline_that_passes_while_a_picture_waits_is_told() -> None:
    threads = Held()
    looks = Looks(threads, max_pixels=10**6, waiting=1)
    for deadline in (time.monotonic() - 1, time.monotonic() + 0.01):
        with pytest.raises(DeadlineExceeded):
            await looks.look(drawing(), deadline=deadline)
    threads.let.set()
    assert await looks.look(drawing(), deadline=time.monotonic() + 60)


async def test_what_a_look_finds_wrong_leaves_no_place_taken() -> None:
    threads = Held()
    threads.let.set()
    looks = Looks(threads, max_pixels=10**6, waiting=1)
    for data, error in ((b"%PDF-1.7", UnsupportedMedia), (b"", InvalidInput)):
        with pytest.raises(error):
            await looks.look(data, deadline=time.monotonic() + 60)
