"""Measures a trained folder on scenes it has never seen: `python -m training.shapes_sam.evaluate DIR`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.ndimage import distance_transform_edt  # type: ignore[import-untyped]
from segment_anything import SamPredictor

from runners.networks.sam.weights import renamed
from training.shapes_sam import coins
from training.shapes_sam import network as networks
from training.shapes_sam.prompts import box_of, mask_of
from training.shapes_sam.scenes import Scene, draw

UNSEEN = 1_000_000
"""Added to the seed: no training draws from such a one."""

_SMALLEST = 150
"""Pixels of a thing that is measured."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one set of scenes gave: mean IoU of the things, and how many things and scenes there were."""

    seed: int
    scenes: int
    things: int
    by_point: float
    """The best-scored mask of three for one point in the middle of what is seen of a thing."""

    by_point_best_of_three: float
    """The mask of the three that fits best: what the point means is not told."""

    by_box: float
    found_by_box: float
    """The share of things with IoU of at least 0.75."""

    score_error: float
    """Of the predicted IoU, absolute."""


@dataclass(frozen=True, slots=True)
class Coins:
    """The IoU of each coin, asked for by a point in its middle (the best-scored mask) and by its box."""

    by_point: list[float]
    by_box: list[float]


def load(folder: Path) -> Any:
    """segment_anything's own network with the folder's weights, in single precision."""
    network = networks.build()
    state = renamed(load_file(folder / "model.safetensors"))
    network.load_state_dict({name: weight.float() for name, weight in state.items()})
    return network.eval()


@torch.inference_mode()
def measure(folder: Path, seed: int, *, scenes: int = 100) -> Measurement:
    predictor = SamPredictor(load(folder))
    answers = [answer for number in range(scenes) for answer in _asked(predictor, draw(UNSEEN + seed, number))]
    best = [max(range(3), key=answer.scores.__getitem__) for answer in answers]
    by_box = [answer.by_box for answer in answers]
    return Measurement(
        seed=seed,
        scenes=scenes,
        things=len(answers),
        by_point=fmean(answer.by_point[place] for answer, place in zip(answers, best, strict=True)),
        by_point_best_of_three=fmean(max(answer.by_point) for answer in answers),
        by_box=fmean(by_box),
        found_by_box=fmean(iou >= 0.75 for iou in by_box),
        score_error=fmean(
            abs(answer.scores[place] - answer.by_point[place]) for answer, place in zip(answers, best, strict=True)
        ),
    )


@torch.inference_mode()
def measure_coins(folder: Path) -> Coins:
    """Of each coin of the photograph."""
    predictor = SamPredictor(load(folder))
    predictor.set_image(np.stack([coins.photograph()] * 3, axis=-1))
    found = Coins([], [])
    for truth in coins.outlines():
        masks, scores, _ = predictor.predict(np.array([middle(truth)]), np.array([1]))
        found.by_point.append(overlap(masks[scores.argmax()], truth))
        [by_box], _, _ = predictor.predict(box=np.array(box_of(truth)), multimask_output=False)
        found.by_box.append(overlap(by_box, truth))
    return found


@dataclass(frozen=True, slots=True)
class _Answer:
    """Of one thing: the IoU and the predicted IoU of the three masks of its point, and the IoU of its box's mask."""

    by_point: list[float]
    scores: list[float]
    by_box: float


def _asked(predictor: Any, scene: Scene) -> Iterator[_Answer]:
    """Of each thing that is alone, or the whole of its parts, and large enough."""
    predictor.set_image(scene.pixels)
    for thing in np.flatnonzero(scene.asked):
        truth = mask_of(scene.labels, scene.wholes, int(thing))
        if not thing or truth.sum() < _SMALLEST or scene.wholes[thing] != thing:
            continue
        masks, scores, _ = predictor.predict(np.array([middle(truth)]), np.array([1]))
        [by_box], _, _ = predictor.predict(box=np.array(box_of(truth)), multimask_output=False)
        yield _Answer([overlap(mask, truth) for mask in masks], scores.tolist(), overlap(by_box, truth))


def middle(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """x and y of the pixel that is farthest from the mask's edge."""
    row, column = np.unravel_index(int(distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].argmax()), mask.shape)
    return int(column), int(row)


def overlap(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2), show_default=True)
@click.option("--scenes", default=100, show_default=True, help="A seed.")
def main(folder: Path, seeds: tuple[int, ...], scenes: int) -> None:
    """Measure the folder on new scenes, and print what is found as JSON."""
    click.echo(json.dumps([asdict(measure(folder, seed, scenes=scenes)) for seed in seeds], indent=2))


if __name__ == "__main__":
    main()
