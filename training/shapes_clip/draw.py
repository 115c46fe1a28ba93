"""Draws a scene as a photograph would arrive: some size, some ground, through a real JPEG."""

import colorsys
import io
import math
import random
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from training.shapes_clip.scenes import Scene, Thing

Point = tuple[float, float]

SIDES = (64, 512)
QUALITIES = (60, 95)
_LARGEST_ASPECT = 1.2
_SMOOTHING = 3  # a shape is drawn this many times larger, then shrunk

# Hue in degrees, saturation and value: the box each colour's name covers.
_COLOURS: dict[str, tuple[Point, Point, Point]] = {
    "red": ((-8, 6), (0.8, 1), (0.75, 1)),
    "green": ((100, 145), (0.7, 1), (0.45, 1)),
    "blue": ((215, 242), (0.75, 1), (0.65, 1)),
    "yellow": ((50, 60), (0.8, 1), (0.92, 1)),
    "orange": ((25, 38), (0.85, 1), (0.93, 1)),
    "purple": ((270, 300), (0.6, 1), (0.45, 0.75)),
    "pink": ((320, 350), (0.28, 0.6), (0.95, 1)),
    "brown": ((16, 30), (0.6, 0.85), (0.35, 0.6)),
    "black": ((0, 360), (0, 0.3), (0, 0.12)),
    "gray": ((0, 360), (0, 0.05), (0.42, 0.65)),
    "cyan": ((176, 190), (0.7, 1), (0.85, 1)),
}


def photograph(scene: Scene, seed: int) -> bytes:
    """The scene as JPEG bytes: size, aspect, ground, colours and quality all follow from the seed."""
    rng = random.Random(seed)
    side = round(math.exp(rng.uniform(math.log(SIDES[0]), math.log(SIDES[1]))))
    longer = min(SIDES[1], round(side * rng.uniform(1, _LARGEST_ASPECT))) if rng.random() < 0.4 else side
    width, height = (side, longer) if rng.random() < 0.5 else (longer, side)
    picture = ground(width, height, rng)
    for thing in scene.things:
        paint(picture, thing, ink(thing.figure.colour, rng))
    return jpeg(picture, quality=rng.randint(*QUALITIES))


def jpeg(picture: Image.Image, *, quality: int) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def ground(width: int, height: int, rng: random.Random) -> Image.Image:
    """White in four of ten, else a light tint, noisy in most of those."""
    if rng.random() < 0.4:
        return Image.new("RGB", (width, height), "white")
    base = np.array([rng.uniform(205, 255) for _ in range(3)], dtype=np.float32)
    if rng.random() < 0.5:
        base[:] = rng.uniform(195, 250)
    pixels = np.broadcast_to(base, (height, width, 3))
    if rng.random() < 0.75:
        noise = np.random.default_rng(rng.getrandbits(64))
        spread = rng.uniform(5, 30)
        channels = rng.choice((1, 3))
        pixels = pixels + spread * noise.standard_normal((height, width, channels), dtype=np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def ink(colour: str, rng: random.Random) -> tuple[int, int, int]:
    """One of the hues that go by the colour's name."""
    hue, saturation, value = (rng.uniform(*bounds) for bounds in _COLOURS[colour])
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value))
    return red, green, blue


def paint(picture: Image.Image, thing: Thing, fill: tuple[int, int, int]) -> None:
    """Paints the thing into the centred square of the picture."""
    side = min(picture.size)
    stamp = _stamp(thing, max(6, round(side * thing.extent)))
    left = (picture.width - side) / 2 + side * thing.x - stamp.width / 2
    top = (picture.height - side) / 2 + side * thing.y - stamp.height / 2
    picture.paste(fill, (round(left), round(top)), stamp)


def _stamp(thing: Thing, extent: int) -> Image.Image:
    large = extent * _SMOOTHING
    stamp = Image.new("L", (large, large))
    canvas = ImageDraw.Draw(stamp)
    for outline, cut in _outlines(thing.figure.shape):
        turned = _turn(outline, thing.turn)
        canvas.polygon([((x + 1) * large / 2, (y + 1) * large / 2) for x, y in turned], fill=0 if cut else 255)
    return stamp.reduce(_SMOOTHING)


def _turn(outline: list[Point], degrees: float) -> Iterator[Point]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    for x, y in outline:
        yield x * cos - y * sin, x * sin + y * cos


def _outlines(shape: str) -> list[tuple[list[Point], bool]]:
    """What to fill, and then what to cut out again, within a circle about the origin."""
    match shape:
        case "circle":
            return [(_circle(0.92), False)]
        case "ring":
            return [(_circle(0.95), False), (_circle(0.55), True)]
        case "crescent":
            return [(_circle(0.95), False), (_circle(0.8, x=0.45), True)]
        case "heart":
            return [(_heart(), False)]
        case _:
            return [(_POLYGONS[shape], False)]


def _circle(radius: float, *, x: float = 0.0) -> list[Point]:
    angles = [2 * math.pi * step / 48 for step in range(48)]
    return [(x + radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _heart() -> list[Point]:
    angles = [2 * math.pi * step / 48 for step in range(48)]
    return [(math.sin(angle) ** 3 * 0.92, _heart_height(angle) / 17.5) for angle in angles]


def _heart_height(angle: float) -> float:
    waves = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
    return -waves - 2.5


def _spikes(points: int, inner: float) -> list[Point]:
    radii = [0.98 if step % 2 == 0 else inner for step in range(2 * points)]
    angles = [math.pi * step / points - math.pi / 2 for step in range(2 * points)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in zip(radii, angles, strict=True)]


_POLYGONS: dict[str, list[Point]] = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0, -0.92), (0.9, 0.7), (-0.9, 0.7)],
    "star": _spikes(5, 0.4),
    "diamond": [(0, -0.98), (0.68, 0), (0, 0.98), (-0.68, 0)],
    "cross": [
        (-0.3, -0.92), (0.3, -0.92), (0.3, -0.3), (0.92, -0.3), (0.92, 0.3), (0.3, 0.3),
        (0.3, 0.92), (-0.3, 0.92), (-0.3, 0.3), (-0.92, 0.3), (-0.92, -0.3), (-0.3, -0.3),
    ],
    "arrow": [(-0.95, -0.25), (0.1, -0.25), (0.1, -0.7), (0.98, 0), (0.1, 0.7), (0.1, 0.25), (-0.95, 0.25)],
}  # fmt: skip
