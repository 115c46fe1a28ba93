"""What callers may hand over as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from modelmora.client.pictures import read
from modelmora.domain.inference import Image, Text
from modelmora.domain.outcome import Failed, unwrap


async def sent(source: Any) -> bytes:
    content = unwrap(await read(source))
    assert isinstance(content, Image)
    return content.data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_bytes_of_every_kind_go_as_they_are(kind: type) -> None:
    assert await sent(kind(b"\xff\xd8 a jpeg")) == b"\xff\xd8 a jpeg"


async def test_a_path_a_string_and_a_file_object_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"picture")
    with path.open("rb") as file:
        assert await sent(file) == b"picture"
    assert await sent(path) == await sent(str(path)) == await sent(io.BytesIO(b"picture")) == b"picture"


async def test_what_is_ready_to_be_sent_is_left_alone() -> None:
    assert unwrap(await read(Text("a cat"))) == Text("a cat")
    assert unwrap(await read(Image(b"x"))) == Image(b"x")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
async def test_a_pil_image_is_sent_without_loss(mode: str) -> None:
    image = PIL.Image.effect_noise((16, 9), 60).convert("L")
    image = PIL.Image.new("I;16", (16, 9), 40_000) if mode == "I;16" else image.convert(mode)
    with PIL.Image.open(io.BytesIO(await sent(image))) as back:
        assert back.mode == mode
        assert np.array_equal(np.asarray(back), np.asarray(image))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
async def test_a_mode_that_png_lacks_goes_as_rgb(mode: str) -> None:
    image = PIL.Image.new(mode, (4, 4))
    with PIL.Image.open(io.BytesIO(await sent(image))) as back:
        assert np.array_equal(np.asarray(back), np.asarray(image.convert("RGB")))


async def test_the_orientation_of_a_photograph_survives(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (8, 4), "red").save(tmp_path / "x.jpg", exif=exif)
    with PIL.Image.open(tmp_path / "x.jpg") as image:
        data = await sent(image)
    with PIL.Image.open(io.BytesIO(data)) as back:
        assert PIL.ImageOps.exif_transpose(back).size == (4, 8)


@pytest.mark.parametrize(
    ("source", "code", "detail"),
    [
        ("no/such/file.jpg", "invalid_input", "cannot read no/such/file.jpg: No such file or directory"),
        (Path(), "invalid_input", "cannot read .: Is a directory"),
        ("null\0character", "invalid_input", "cannot read"),
        (io.StringIO("text"), "validation", "opened as text"),
        (42, "validation", "cannot be sent as a picture"),
        (PIL.Image.new("F", (1, 1)), "validation", "mode F has no certain range"),
    ],
)
async def test_what_cannot_be_sent_says_why(source: object, code: str, detail: str) -> None:
    outcome = await read(source)  # type: ignore[arg-type]  # wrong on purpose
    error = getattr(outcome, "error", None)
    assert error is not None
    assert error.code == code
    assert detail in error.detail


async def test_a_truncated_pil_image_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    PIL.Image.effect_noise((64, 64), 60).save(path)
    path.write_bytes(path.read_bytes()[:500])
    with PIL.Image.open(path) as image:
        outcome = await read(image)
    assert getattr(outcome, "error").code == "invalid_input"  # noqa: B009 - either kind of outcome to mypy


@pytest.mark.parametrize("text", ["caf\udce9", "\ud83d alone"], ids=["a file name", "half a pair"])
async def test_a_text_that_no_wire_takes_says_so(text: str) -> None:
    outcome = await read(Text(text))
    assert isinstance(outcome, Failed)
    error = outcome.error
    assert (error.code, error.field) == ("invalid_input", "text")
    assert "the text is no Unicode" in error.detail
    assert error.found in (r"'\udce9'", r"'\ud83d'")


async def test_a_text_of_every_language_is_left_alone() -> None:
    assert unwrap(await read(Text("кот 猫 😺"))) == Text("кот 猫 😺")
