"""Draws masks on a photograph, asked of a running server: `python -m training.shapes_sam.picture --out FILE`."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import binary_erosion  # type: ignore[import-untyped]

from modelmora.client import Box, Everything, Prompt, SyncClient, unwrap
from training.shapes_sam import coins
from training.shapes_sam.coins import Mask
from training.shapes_sam.prompts import box_of

MODEL = "shapes-sam"
EVERYTHING = Everything(points_per_side=24, min_score=0.7, min_stability=0.8, min_area=100)
"""A small network is less sure of itself than the ones that the defaults are made for."""

_LARGER = 2
_GAP = 12


def cut_out(client: SyncClient, pixels: NDArray[np.uint8], boxes: Sequence[Box]) -> list[Mask]:
    """The mask of each box; raises what the first prompt that fails fails with."""
    prompts = [Prompt(box=box) for box in boxes]
    answers = client.segment_all(_file(pixels), prompts, model=MODEL)
    return [unwrap(answer).masks[0].to_array() for answer in answers]


def everything_in(client: SyncClient, pixels: NDArray[np.uint8], asked: Everything) -> list[Mask]:
    """The largest first, so that the smaller ones are drawn over them."""
    answers = [unwrap(answer) for answer in client.segment_all(_file(pixels), asked, model=MODEL)]
    masks = [answer.masks[0].to_array() for answer in answers if answer.masks]
    return sorted(masks, key=lambda mask: -int(mask.sum()))


def drawn(pixels: NDArray[np.uint8], masks: Sequence[Mask], boxes: Sequence[Box] = ()) -> Image.Image:
    """The photograph with each mask in a color of its own, its edge brighter, and the boxes that were asked for."""
    size = (pixels.shape[1] * _LARGER, pixels.shape[0] * _LARGER)
    painted = np.array(Image.fromarray(pixels).convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    for place, mask in enumerate(masks):
        color = 255 * np.array(colorsys.hsv_to_rgb(place * 0.381966 % 1, 0.9, 1))  # the golden angle: none alike
        large = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        edge = large & ~binary_erosion(large, iterations=2)
        painted[large] = 0.55 * painted[large] + 0.45 * color
        painted[edge] = color
    picture = Image.fromarray(painted.astype(np.uint8))
    canvas = ImageDraw.Draw(picture)
    for box in boxes:
        canvas.rectangle([place * _LARGER for place in (box.left, box.top, box.right, box.bottom)], outline="white")
    return picture


def around(mask: Mask) -> Box:
    """The smallest box."""
    left, top, right, bottom = box_of(mask)
    return Box(left=left, top=top, right=right, bottom=bottom)


def _file(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _beside(pictures: Sequence[Image.Image]) -> Image.Image:
    joined = Image.new(
        "RGB", (sum(p.width for p in pictures) + _GAP * (len(pictures) - 1), pictures[0].height), "white"
    )
    left = 0
    for picture in pictures:
        joined.paste(picture, (left, 0))
        left += picture.width + _GAP
    return joined


@click.command()
@click.option("--url", default="grpc://127.0.0.1:50051", show_default=True, help="A server that has shapes-sam.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(url: str, out: Path) -> None:
    """Left: each coin by a box around it. Right: everything, without being told where."""
    pixels = coins.photograph()
    boxes = [around(mask) for mask in coins.outlines()]
    with SyncClient(url) as client:
        asked = cut_out(client, pixels, boxes)
        found = everything_in(client, pixels, EVERYTHING)
    picture = _beside([drawn(pixels, asked, boxes), drawn(pixels, found)])
    picture.save(out, quality=85)
    click.echo(f"{len(asked)} masks of boxes, {len(found)} of everything: {out}")


if __name__ == "__main__":
    main()
