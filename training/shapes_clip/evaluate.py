"""Measures a trained folder on held-out captions: `python -m training.shapes_clip.evaluate DIR`."""

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import torch
from PIL import Image

from training.shapes_clip import network as networks
from training.shapes_clip.draw import photograph
from training.shapes_clip.examination import Question, examination, false_friends, swap
from training.shapes_clip.scenes import FAMILIES, is_held_out

_BATCH = 50


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one examination found."""

    seed: int
    captions: int
    unseen_share: float
    false_friends: int
    recall_at_1: float
    unseen_recall_at_1: float
    recall_at_1_by_family: dict[str, float]
    picture_to_text_recall_at_1: float
    own_before_swapped: float
    misses: list[str] = field(default_factory=list)


def measure(folder: Path, seed: int) -> Measurement:
    network, preprocess, tokenizer = networks.load(folder)
    questions = examination(seed)
    said = [str(question.claim) for question in questions]
    pictures = _pictures(network, preprocess, questions)
    scores = _texts(network, tokenizer, said) @ pictures.T
    right = (scores.argmax(dim=1) == torch.arange(len(said))).tolist()
    found = dict(zip(said, right, strict=True))
    return Measurement(
        seed=seed,
        captions=len(said),
        unseen_share=fmean(is_held_out(question.claim) for question in questions),
        false_friends=false_friends(questions),
        recall_at_1=fmean(right),
        unseen_recall_at_1=fmean(hit for q, hit in zip(questions, right, strict=True) if is_held_out(q.claim)),
        recall_at_1_by_family={family: _share(questions, found, family) for family in FAMILIES},
        picture_to_text_recall_at_1=fmean((scores.argmax(dim=0) == torch.arange(len(said))).tolist()),
        own_before_swapped=_own_before_swapped(network, tokenizer, questions, pictures),
        misses=[caption for caption, hit in found.items() if not hit],
    )


def _share(questions: list[Question], found: dict[str, bool], family: str) -> float:
    return fmean(found[str(question.claim)] for question in questions if question.claim.family == family)


def _own_before_swapped(
    network: torch.nn.Module, tokenizer: Any, questions: list[Question], pictures: torch.Tensor
) -> float:
    """Of the pictures with a relation, how many prefer their caption to the one with the two things swapped."""
    related = [place for place, question in enumerate(questions) if question.claim.other]
    claims = [questions[place].claim for place in related]
    own = _texts(network, tokenizer, [str(claim) for claim in claims])
    swapped = _texts(network, tokenizer, [str(swap(claim)) for claim in claims])
    return ((own - swapped) * pictures[related]).sum(dim=1).gt(0).float().mean().item()


@torch.inference_mode()
def _pictures(network: Any, preprocess: Any, questions: list[Question]) -> torch.Tensor:
    files = [io.BytesIO(photograph(question.scene, question.photograph)) for question in questions]
    pixels = torch.stack([preprocess(Image.open(file)) for file in files])
    return torch.cat([network.encode_image(part, normalize=True) for part in torch.split(pixels, _BATCH)])


@torch.inference_mode()
def _texts(network: Any, tokenizer: Any, said: list[str]) -> torch.Tensor:
    features: torch.Tensor = network.encode_text(tokenizer(said), normalize=True)
    return features


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2, 3, 4), show_default=True)
def main(folder: Path, seeds: tuple[int, ...]) -> None:
    """Measure the folder by one examination a seed, and print the results and their means as JSON."""
    results = [measure(folder, seed) for seed in seeds]
    means = {
        "recall_at_1": fmean(result.recall_at_1 for result in results),
        "unseen_recall_at_1": fmean(result.unseen_recall_at_1 for result in results),
        "own_before_swapped": fmean(result.own_before_swapped for result in results),
        "plain_recall_at_1": fmean(result.recall_at_1_by_family["plain"] for result in results),
    }
    click.echo(json.dumps({"mean": means, "examinations": [asdict(result) for result in results]}, indent=2))


if __name__ == "__main__":
    main()
