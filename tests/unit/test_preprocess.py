"""What a picture may be, what it then looks like, and what is said of anything else."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from modelmora.domain.preprocess import Preprocess
from modelmora.errors import InputError, InvalidInput, LimitExceeded, UnsupportedMedia
from runners.preprocess import prepare_image

ORIENTATION = 0x0112
AS_IT_IS = Preprocess(resize="none", height=0, width=0)
CROP_64 = Preprocess(resize="shortest", height=64, width=64)

# What a camera does to an upright scene, by the orientation it then writes.
TAKEN = {
    1: lambda scene: scene,
    2: lambda scene: scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda scene: scene.transpose(Image.Transpose.ROTATE_180),
    4: lambda scene: scene.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda scene: scene.transpose(Image.Transpose.TRANSPOSE),
    6: lambda scene: scene.transpose(Image.Transpose.ROTATE_90),
    7: lambda scene: scene.transpose(Image.Transpose.TRANSVERSE),
    8: lambda scene: scene.transpose(Image.Transpose.ROTATE_270),
}


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def seen(data: bytes) -> NDArray[np.int64]:
    """All pixels, in a type that does not wrap when subtracted."""
    return prepare_image(data, AS_IT_IS).astype(np.int64)


def with_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_an_exif_orientation_is_undone(orientation: int, kind: str, options: dict[str, Any]) -> None:
    scene = noise(7, 5)
    taken = TAKEN[orientation](scene)
    assert (seen(stored(taken, kind, exif=with_exif(orientation), **options)) == np.asarray(scene)).all()


@pytest.mark.parametrize("orientation", [0, 1, 9, 65535])
def test_an_orientation_that_means_nothing_is_ignored(orientation: int) -> None:
    scene = noise(6, 4)
    assert (seen(stored(scene, exif=with_exif(orientation))) == np.asarray(scene)).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_a_damaged_exif_block_does_not_cost_the_picture() -> None:
    scene = noise(32, 24)
    damaged = stored(scene, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff" + b"\xff" * 40)
    assert (seen(damaged) == seen(stored(scene, "JPEG"))).all()


def test_cmyk_becomes_the_same_colours() -> None:
    colours = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(seen(stored(colours, "JPEG", quality=95)) - (255, 0, 0)).max() <= 8
    assert np.abs(seen(stored(colours, "TIFF")) - (255, 0, 0)).max() == 0


def test_grey_with_alpha_lies_over_white() -> None:
    grey = Image.new("LA", (3, 1))
    grey.putdata([(0, 0), (0, 255), (0, 128)])
    assert seen(stored(grey))[0].tolist() == [[255] * 3, [0] * 3, [127] * 3]


def test_colour_with_alpha_lies_over_white() -> None:
    colour = Image.new("RGBA", (3, 1))
    colour.putdata([(200, 0, 0, 0), (200, 0, 0, 255), (255, 0, 0, 128)])
    assert seen(stored(colour))[0].tolist() == [[255] * 3, [200, 0, 0], [255, 127, 127]]


def test_a_palette_with_a_transparent_entry_lies_over_white() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    expected = [[255, 0, 0], [255, 255, 255], [0, 0, 255]]
    assert seen(stored(palette, "PNG", transparency=1))[0].tolist() == expected
    assert seen(stored(palette, "GIF", transparency=1))[0].tolist() == expected


def test_a_palette_without_transparency_keeps_its_colours() -> None:
    scene = noise(20, 20).quantize(16)
    assert (seen(stored(scene)) == np.asarray(scene.convert("RGB"))).all()


def test_a_colour_named_as_transparent_lies_over_white() -> None:
    colour = Image.new("RGB", (2, 1), (1, 2, 3))
    colour.putpixel((1, 0), (200, 100, 0))
    assert seen(stored(colour, transparency=(1, 2, 3)))[0].tolist() == [[255] * 3, [200, 100, 0]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped_to_white(kind: str) -> None:
    deep = Image.fromarray(np.linspace(0, 65535, 256, dtype=np.uint16).reshape(1, -1))
    pixels = seen(stored(deep, kind))[0, :, 0]
    assert (pixels == np.arange(256)).all()


def test_big_endian_16_bit_grey_is_the_same() -> None:
    # A TIFF by hand: Pillow writes only the machine's own order.
    values = np.array([0, 0x1234, 0x8000, 0xFFFF], dtype=">u2").tobytes()
    tags = [(256, 3, 4), (257, 3, 1), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 1)]
    entries = [
        struct.pack(">HHI", tag, kind, 1)
        + struct.pack(">HH" if kind == 3 else ">I", *((value, 0) if kind == 3 else (value,)))
        for tag, kind, value in [*tags, (279, 4, 8)]
    ]
    file = b"MM\x00*" + struct.pack(">I", 16) + values + struct.pack(">H", len(entries)) + b"".join(entries) + bytes(4)
    assert seen(file)[0, :, 0].tolist() == [0, 0x12, 0x80, 0xFF]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([0.0, 32896.0, 65535.0], [0, 128, 255]),
        ([-100.0, 0.0, 100.0], [0, 128, 255]),
        ([np.nan, 0.5, np.inf], [0, 128, 0]),
        ([-7.0, -7.0, -7.0], [0, 0, 0]),
    ],
)
def test_floats_are_scaled_from_the_range_they_fill(values: list[float], expected: list[int]) -> None:
    floats = Image.fromarray(np.array([values], dtype=np.float32))
    assert seen(stored(floats, "TIFF"))[0, :, 0].tolist() == expected


def test_32_bit_integers_are_scaled() -> None:
    integers = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.int32))
    assert seen(stored(integers, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


def test_one_bit_is_black_and_white() -> None:
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    assert seen(stored(bits))[0].tolist() == [[0] * 3, [255] * 3]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    moving = stored(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (seen(moving) == (255, 0, 0)).all()


@pytest.mark.parametrize("resize", ["shortest", "longest", "exact"])
def test_a_single_pixel_fills_the_result(resize: Any) -> None:
    how = Preprocess(resize=resize, height=32, width=32)
    pixels = prepare_image(stored(Image.new("RGB", (1, 1), (10, 20, 30))), how)
    assert (pixels == (10, 20, 30)).all()


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000), (20_000, 10), (3, 15_000)])
@pytest.mark.parametrize("resize", ["shortest", "longest", "exact"])
def test_a_very_long_picture_costs_no_more_than_another(size: tuple[int, int], resize: Any) -> None:
    how = Preprocess(resize=resize, height=224, width=224, fill=7)
    data = stored(Image.new("RGB", size, (200, 100, 50)))
    started = time.perf_counter()
    pixels = prepare_image(data, how)
    assert time.perf_counter() - started < 1.0
    assert (pixels[111, 111] == (200, 100, 50)).all()
    assert (pixels == (7, 7, 7)).all(axis=2).any() == (resize == "longest")


def test_what_is_padded_has_the_fill_on_both_sides() -> None:
    how = Preprocess(resize="longest", height=40, width=40, fill=127)
    pixels = prepare_image(stored(Image.new("RGB", (40, 20))), how)
    assert (pixels[:10] == 127).all()
    assert (pixels[10:30] == 0).all()
    assert (pixels[30:] == 127).all()


def test_grey_and_colour_of_the_same_picture_give_the_same_pixels() -> None:
    grey = noise(90, 70).convert("L")
    for resize in ("shortest", "longest", "exact"):
        how = Preprocess(resize=resize, height=48, width=48)
        assert (prepare_image(stored(grey), how) == prepare_image(stored(grey.convert("RGB")), how)).all()


def test_an_icc_profile_changes_nothing() -> None:
    scene = noise(16, 16)
    assert (seen(stored(scene, icc_profile=b"\x00" * 128)) == np.asarray(scene)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_kind_that_is_taken_can_be_read(kind: str) -> None:
    scene = Image.new("RGB", (64, 48), (60, 120, 180))
    assert np.abs(seen(stored(scene, kind)) - (60, 120, 180)).max() <= 4


# --- what is not a picture ---------------------------------------------------------------------------------------


def test_nothing_at_all_is_invalid() -> None:
    with pytest.raises(InvalidInput, match="0 bytes"):
        prepare_image(b"", CROP_64)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%PDF-1.7\n...", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"<!DOCTYPE html><html>", "HTML text"),
        (b"\xef\xbb\xbf  <html>", "HTML text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b'{"error": "not found"}', "JSON text"),
        (b"data:image/png;base64,iVBORw0KGgo=", "data URI"),
        (b"https://example.org/cat.jpg", "URL"),
        (b"PK\x03\x04....", "ZIP"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "heic"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00", "mp42"),
        (b"hello there", "plain text"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07\x08", "00 01 02 03"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedMedia, match=name):
        prepare_image(data, CROP_64)


def test_a_format_that_would_run_a_program_is_not_taken() -> None:
    with pytest.raises(UnsupportedMedia, match="PostScript"):
        prepare_image(stored(Image.new("RGB", (8, 8)), "EPS"), CROP_64)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_truncated_picture_is_invalid(kind: str, part: float) -> None:
    whole = stored(noise(80, 60), kind)
    with pytest.raises(InvalidInput, match="damaged or truncated"):
        prepare_image(whole[: int(len(whole) * part)], CROP_64)


def png_header(width: int, height: int) -> bytes:
    """A PNG that has nothing but its header: whoever decodes it fails."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + chunk(b"IDAT", b"")
    )


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])
def test_too_many_pixels_are_refused_by_the_header_alone(side: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LimitExceeded, match=f"{side}x{side}"):
            prepare_image(png_header(side, side), CROP_64)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_pixel_limit_is_the_callers() -> None:
    data = stored(noise(20, 10))
    assert prepare_image(data, CROP_64, max_pixels=200).shape == (64, 64, 3)
    with pytest.raises(LimitExceeded, match="20x10 = 200 pixels, more than 199"):
        prepare_image(data, CROP_64, max_pixels=199)


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_zip_bomb_in_a_text_chunk_does_not_go_off(name: bytes) -> None:
    bomb = zlib.compress(bytes(100_000_000), 9)
    head = {b"zTXt": b"Comment\x00\x00", b"iTXt": b"Comment\x00\x01\x00\x00\x00", b"iCCP": b"profile\x00\x00"}[name]
    whole = stored(noise(8, 8))
    started = time.perf_counter()
    with pytest.raises(InvalidInput):
        prepare_image(whole[:33] + chunk(name, head + bomb) + whole[33:], CROP_64)
    assert time.perf_counter() - started < 1.0


def mutated(data: bytes, chance: random.Random) -> bytes:
    bytes_ = bytearray(data)
    match chance.randrange(4):
        case 0:
            del bytes_[chance.randrange(len(bytes_)) :]
        case 1:
            at = chance.randrange(len(bytes_))
            bytes_[at : at + chance.randrange(1, 50)] = chance.randbytes(chance.randrange(60))
        case _:
            reach = chance.choice((64, 400, len(bytes_)))
            for _ in range(chance.choice((1, 3, 10, 100))):
                bytes_[chance.randrange(min(len(bytes_), reach))] = chance.randrange(256)
    return bytes(bytes_)


def scene() -> Image.Image:
    return noise(20, 15).resize((160, 120), Image.Resampling.BICUBIC)


EVERY_KIND: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: stored(scene(), "JPEG", exif=with_exif(6)),
    "progressive": lambda: stored(scene(), "JPEG", progressive=True),
    "cmyk": lambda: stored(scene().convert("CMYK"), "JPEG"),
    "png": lambda: stored(scene(), "PNG", exif=with_exif(6)),
    "palette": lambda: stored(scene().quantize(64), "PNG", transparency=3),
    "deep": lambda: stored(Image.fromarray(np.asarray(scene().convert("L")).astype(np.uint16) * 257), "PNG"),
    "webp": lambda: stored(scene(), "WEBP", exif=with_exif(6)),
    "lossless webp": lambda: stored(scene(), "WEBP", lossless=True),
    "gif": lambda: stored(scene(), "GIF", save_all=True, append_images=[noise(160, 120)]),
    "bmp": lambda: stored(scene(), "BMP"),
    "tiff": lambda: stored(scene(), "TIFF"),
    "lzw tiff": lambda: stored(scene(), "TIFF", compression="tiff_lzw"),
    "avif": lambda: stored(scene(), "AVIF"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow remarks on what it can still read
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_300_mutations_of_a_file_give_pixels_or_an_input_error(kind: str) -> None:
    chance, whole, outcomes = random.Random(kind), EVERY_KIND[kind](), {"pixels": 0, "error": 0}
    for _ in range(300):
        data = mutated(whole, chance)
        started = time.perf_counter()
        try:
            pixels = prepare_image(data, CROP_64)
        except InputError:
            outcomes["error"] += 1
        else:
            assert pixels.shape == (64, 64, 3)
            assert pixels.dtype == np.uint8
            outcomes["pixels"] += 1
        assert time.perf_counter() - started < 2.0
    assert outcomes["error"] > 50


def test_many_threads_get_the_same_pixels() -> None:
    files = [stored(noise(60, 40, seed), "JPEG") for seed in range(8)]
    alone = [prepare_image(data, CROP_64) for data in files]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda data: prepare_image(data, CROP_64), files * 10))
    assert all((pixels == alone[place % 8]).all() for place, pixels in enumerate(together))


def test_preparing_pictures_needs_no_torch() -> None:
    code = "import sys, runners.preprocess; assert not {'torch', 'open_clip', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
