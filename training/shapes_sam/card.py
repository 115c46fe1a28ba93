"""Writes the model card of a trained folder from what is measured: `python -m training.shapes_sam.card DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import click

from training.shapes_sam import network as networks
from training.shapes_sam.evaluate import Coins, Measurement, measure, measure_coins
from training.shapes_sam.scenes import SIDE

_CARD = """\
# shapes-sam 1.0.0

A small, real SAM (Kirillov et al., *Segment Anything*, 2023) of segment_anything's own classes that has learned from
drawn scenes alone. It ships with ModelMora so that a fresh clone answers `/v1/segment` without a download, through the
same provider and paths as SAM ViT-B.

| | |
|---|---|
| encoder | ViT of {depth} layers, width {width}, windows of {window} tokens, patch 16 on {side}x{side} |
| decoder | two layers, width {channels}; three masks for a point and one for clear prompts |
| weights | {megabytes:.1f} MB, half precision, safetensors; a folder of transformers' `SamModel` |
| license | Apache-2.0 |
| training | seed 0, {scenes:,} scenes, 4 a step: {sameness:,} steps of the encoder alone, then in two rounds |
| | {small:,} with prompts on parts of 256 pixels and {whole:,} on whole scenes; {minutes} minutes of one core |
| again | `python -m training.shapes_sam.train --out DIR` |

## What it learned

Scenes of {side}x{side} pixels with up to 30 things: discs, ellipses, polygons, boxes, bars, stars, smooth blobs, rings
and pairs of these, filled with plain and shaded colors, noise, stripes, relief and cuttings of photographs; apart,
touching and on top of one another, some with parts; on grounds of the same kinds; uneven light, shadows, blur and
noise; a third in gray. The cuttings are of 11 of scikit-image's pictures and two of scikit-learn's
(`training/shapes_sam/materials.py` names them). What is shown in such a photograph was never marked.

Prompts as in the paper: one to three points, some of them beside the thing, boxes that are a little off, both, and a
second point where the first answer was wrong, with that answer as the earlier mask. Losses as in the paper: focal and
dice 20 to 1, of three masks the best one's, and the mean squared error of the predicted IoU. Before that, and a
little beside it, the encoder learned which places belong to the same thing (`sameness.py`), and the first
600 steps with prompts also had a cross-entropy that is balanced between a thing and the rest.

## Measured

`python -m training.shapes_sam.evaluate registry/bundled/shapes-sam`: {held} new scenes a seed, {things:,} things,
through segment_anything's own `SamPredictor`. Mean IoU; seed 0, and the range of seeds 0 to {last}:

| | seed 0 | range |
|---|---|---|
{rows}

On a photograph it has not learned from (scikit-image's coins, {coins} of them, the truth by a watershed), mean IoU:

| each coin asked for | mean | with 0.8 or better |
|---|---|---|
| by its box | {box_mean:.3f} | {box_good} of {coins} |
| by a point in its middle | {coin_mean:.3f} | {coin_good} of {coins} |

## What it cannot do

It goes by edges, colors and textures, and knows no objects. A thing of one material before another is found; a person,
a cat or a cup comes apart into what looks alike. It sees pictures at {side} pixels, so what is smaller than about 12
of those is lost, and its masks are {masks}x{masks} before they are brought to the picture's size: corners are round.
`logits` for a later prompt are of that size too. For photographs take SAM ViT-B (`sam-vit-base`).
"""


def _row(name: str, values: Sequence[float]) -> str:
    return f"| {name} | {values[0]:.3f} | {min(values):.3f} to {max(values):.3f} |"


def card(results: list[Measurement], *, coins: Coins, bytes_: int, trained: dict[str, int]) -> str:
    """The card's text; `results` by seed, 0 first, `coins` the IoU of each by a point and by its box."""
    rows = [
        _row("by a point in its middle, the best-scored mask", [r.by_point for r in results]),
        _row("... the best of the three masks", [r.by_point_best_of_three for r in results]),
        _row("by its box", [r.by_box for r in results]),
        _row("share of things with IoU of 0.75 by their box", [r.found_by_box for r in results]),
        _row("mean error of the predicted IoU", [r.score_error for r in results]),
    ]
    shape = {"depth": networks.DEPTH, "width": networks.WIDTH, "window": networks.WINDOW, "channels": networks.CHANNELS}
    return _CARD.format(
        rows="\n".join(rows),
        megabytes=bytes_ / 1e6,
        things=sum(r.things for r in results),
        held=results[0].scenes,
        last=len(results) - 1,
        side=SIDE,
        masks=4 * networks.TOKENS,
        coins=len(coins.by_box),
        coin_mean=fmean(coins.by_point),
        coin_good=sum(iou >= 0.8 for iou in coins.by_point),
        box_mean=fmean(coins.by_box),
        box_good=sum(iou >= 0.8 for iou in coins.by_box),
        **shape,
        **trained,
    )


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--scenes", type=int, required=True, help="How many it was trained on, ...")
@click.option("--sameness", type=int, required=True, help="... and for how many steps of each kind.")
@click.option("--small", type=int, required=True)
@click.option("--whole", type=int, required=True)
@click.option("--minutes", type=int, required=True, help="How long that took.")
def main(folder: Path, **trained: int) -> None:
    """Measures the folder over three seeds and on the coins, and writes its README.md."""
    results = [measure(folder, seed) for seed in range(3)]
    size = (folder / "model.safetensors").stat().st_size
    text = card(results, coins=measure_coins(folder), bytes_=size, trained=trained)
    (folder / "README.md").write_text(text)


if __name__ == "__main__":
    main()
