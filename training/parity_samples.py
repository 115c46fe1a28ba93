"""Makes the pictures that `verify` compares models on: `python -m training.parity_samples`.

Cut from photographs in the public domain or under CC0 that come inside scikit-image, and drawn by `shapes_clip`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import skimage.data
from PIL import Image, ImageOps

from training.shapes_clip.draw import photograph
from training.shapes_clip.scenes import FAMILIES, random_claim, stage

FOLDER = Path(__file__).parents[1] / "runners" / "examinations" / "parity_samples" / "pictures"
DRAWN = 18
_EXIF_ORIENTATION, _TURNED = 0x0112, 6


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of a picture: its corners as shares of width and height, its longest side in pixels, and what is done."""

    box: tuple[float, float, float, float]
    side: int
    how: str = ""


_CUTS = (
    Cut((0, 0, 1, 1), 320),
    Cut((0.1, 0.05, 0.6, 0.8), 288, "mirror"),
    Cut((0.3, 0.25, 1, 0.75), 320, "grey"),
    Cut((0.25, 0.2, 0.75, 0.75), 200, "turn"),
    Cut((0, 0.3, 0.45, 1), 256, "dark"),
)
_COLOUR = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "retina", "rocket")
_GREY = ("brick", "camera", "cell", "clock", "grass", "gravel", "horse", "microaneurysms")


def pictures() -> Iterator[tuple[str, Image.Image]]:
    """46 cuts with their names: five of each photograph in colour, two of each grey one."""
    for name in _COLOUR:
        yield from ((f"{name}-{number}", _cut(name, cut)) for number, cut in enumerate(_CUTS))
    for place, name in enumerate(_GREY):
        chosen = (_CUTS[0], _CUTS[1 + place % 4])
        yield from ((f"{name}-{number}", _cut(name, cut)) for number, cut in enumerate(chosen))


def _cut(name: str, cut: Cut) -> Image.Image:
    pixels = getattr(skimage.data, name)()
    whole = Image.fromarray(pixels.astype("uint8") * 255 if pixels.dtype == bool else pixels)
    left, top, right, bottom = cut.box
    part = whole.crop(
        (
            round(left * whole.width),
            round(top * whole.height),
            round(right * whole.width),
            round(bottom * whole.height),
        )
    )
    part.thumbnail((cut.side, cut.side), Image.Resampling.LANCZOS)
    return _treated(part, cut.how)


def _treated(part: Image.Image, how: str) -> Image.Image:
    match how:
        case "mirror":
            return ImageOps.mirror(part)
        case "grey":
            return part.convert("L")
        case "turn":
            return part.transpose(Image.Transpose.ROTATE_90)
        case "dark":
            return part.point(lambda value: value // 3)
    return part


def drawings() -> Iterator[bytes]:
    """JPEG files of the bundled model's own world."""
    rng = random.Random(64)
    for number in range(DRAWN):
        yield photograph(stage(random_claim(rng, FAMILIES[number % len(FAMILIES)]), rng), 6400 + number)


def write(folder: Path) -> None:
    """64 files in place of the numbered ones that are there.

    Photographs as JPEG, two as PNG with alpha, one with an orientation in its EXIF.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9][0-9]-*"):
        old.unlink()
    number = 0
    for number, (name, picture) in enumerate(pictures()):
        _save(picture, folder / f"{number:02d}-{name}", number)
    for later, data in enumerate(drawings(), number + 1):
        (folder / f"{later:02d}-drawing.jpg").write_bytes(data)


def _save(picture: Image.Image, stem: Path, number: int) -> None:
    if number in (8, 13):  # one on either side of the split
        veil = Image.linear_gradient("L").resize(picture.size)
        shown = picture.convert("RGBA")
        shown.putalpha(veil)
        shown.save(stem.with_suffix(".png"), optimize=True)
        return
    exif = Image.Exif()
    if number == 4:
        exif[_EXIF_ORIENTATION] = _TURNED
    picture.save(stem.with_suffix(".jpg"), quality=80 + number % 3 * 6, progressive=number % 4 == 1, exif=exif)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the pictures are written")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
