"""Writes the model card of a trained folder from what is measured: `python -m training.shapes_clip.card DIR`."""

from pathlib import Path
from statistics import fmean

import click

from training.shapes_clip.evaluate import Measurement, measure
from training.shapes_clip.network import CONFIG

_CARD = """\
# shapes-clip 1.0.0

A small, real CLIP: pictures of coloured shapes and texts about them, in one space of 128 dimensions. It ships
with ModelMora so that a fresh clone answers without a download, through the same provider and paths as
ViT-B/32. It knows nothing of photographs.

| | |
|---|---|
| pictures | open_clip `CLIP`, ViT of {layers} layers, width {width}, patch {patch} on {size}x{size} |
| texts | 2 layers, width 64, context 24, CLIP's own tokenizer |
| weights | {megabytes:.1f} MB, half precision, safetensors; an open_clip `local-dir:` folder |
| licence | Apache-2.0, weights and pictures alike: the pictures are drawn by a script |
| training | seed 0, {pictures:,} pictures, {steps:,} steps of 128: {minutes} minutes on 2 cores |
| again | `python -m training.shapes_clip.train --out DIR` |

## What it learnt

Pictures of 64 to 512 pixels, JPEG quality 60 to 95, white, tinted and noisy grounds, of 9 colours and 8 shapes:
one figure, two to four alike, or two different ones. Captions: `a red circle`, `three blue squares`, `a small
green star`, `a black ring left of a cyan heart`, `a red arrow above a blue cross`, and vaguer ones (`a circle`,
`a red shape`). Sixteen of the 72 pairs of colour and shape (22 %) are never drawn or named in training, and of
the other captions one combination in four is held out besides.

## Measured

`python -m training.shapes_clip.evaluate registry/bundled/shapes-clip`: 200 captions and 200 new pictures, 40 %
of the combinations never seen in training, no caption true of another's picture; the stored weights in fp32
through open_clip's own pipeline. Seed 0, and the mean and range of seeds 0 to 4:

| | seed 0 | mean | range |
|---|---|---|---|
{rows}

"Order" is the share of pictures with a relation that prefer their caption to the one with the two things
swapped: at 0.5 it has not learnt which of two things is left of, or above, the other, and finds such pictures
by what they show.
"""


def _row(name: str, values: list[float]) -> str:
    spread = f"{min(values):.3f} to {max(values):.3f}"
    return f"| {name} | {values[0]:.3f} | {fmean(values):.3f} | {spread} |"


def card(
    results: list[Measurement], *, bytes_: int, network: dict[str, int], steps: int, pictures: int, minutes: int
) -> str:
    """The card's text; `results` by seed, 0 first."""
    families = results[0].recall_at_1_by_family
    rows = [
        _row("text to picture, recall@1, 200 captions", [r.recall_at_1 for r in results]),
        _row("... of combinations never seen", [r.unseen_recall_at_1 for r in results]),
        *(_row(f"... {family}", [r.recall_at_1_by_family[family] for r in results]) for family in families),
        _row("picture to text, recall@1", [r.picture_to_text_recall_at_1 for r in results]),
        _row("order", [r.own_before_swapped for r in results]),
    ]
    shape = {"layers": network["layers"], "width": network["width"], "patch": network["patch_size"]}
    facts = {"size": network["image_size"], "megabytes": bytes_ / 1e6, "steps": steps, "pictures": pictures}
    return _CARD.format(rows="\n".join(rows), minutes=minutes, **shape, **facts)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--steps", type=int, required=True)
@click.option("--pictures", type=int, required=True)
@click.option("--minutes", type=int, required=True, help="How long training took.")
def main(folder: Path, steps: int, pictures: int, minutes: int) -> None:
    """Measures the folder over five seeds and writes its README.md."""
    results = [measure(folder, seed) for seed in range(5)]
    size = (folder / "open_clip_model.safetensors").stat().st_size
    network = CONFIG["model_cfg"]["vision_cfg"]
    text = card(results, bytes_=size, network=network, steps=steps, pictures=pictures, minutes=minutes)
    (folder / "README.md").write_text(text)


if __name__ == "__main__":
    main()
