"""What a trained folder is asked: held-out captions, each true of one picture only."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from training.shapes_clip.scenes import (
    FAMILIES,
    Claim,
    Scene,
    all_claims,
    captions,
    is_held_out,
    random_claim,
    stage,
    truths,
)

CAPTIONS = 200
SHARES = {"plain": 34, "sized": 36, "counted": 50}
"""How many captions of a family at most: what is true of another's picture is left out. The rest is relations."""
UNSEEN_SHARE = 0.4
"""Of the captions of each family: combinations that training never showed. The pictures are all new."""


@dataclass(frozen=True, slots=True)
class Question:
    """A held-out caption and the one scene, of all in the examination, that it is true of."""

    claim: Claim
    scene: Scene
    photograph: int  # the seed it is drawn with


def examination(seed: int, *, unseen_share: float = UNSEEN_SHARE) -> list[Question]:
    """200 held-out captions with a picture each; no caption is true of another's picture.

    The plain ones come first, so that no later picture shows a pair they ask for. `unseen_share` is the share
    of combinations that training never showed.
    """
    rng = random.Random(f"examination/{seed}")
    questions: list[Question] = []
    said: set[Claim] = set()
    shown: set[Claim] = set()
    for family in FAMILIES:
        for unseen, wanted in _portions(SHARES.get(family, CAPTIONS - len(questions)), unseen_share):
            end = len(questions) + wanted
            for claim in _claims(family, rng, unseen=unseen):
                if len(questions) == end:
                    break
                scene = stage(claim, rng)
                if claim not in shown and said.isdisjoint(truths(scene)):
                    questions.append(Question(claim, scene, rng.getrandbits(64)))
                    said.add(claim)
                    shown |= truths(scene)
    return questions


def _portions(count: int, unseen_share: float) -> list[tuple[bool, int]]:
    unseen = round(count * unseen_share)
    return [(True, unseen), (False, count - unseen)]


def _claims(family: str, rng: random.Random, *, unseen: bool) -> Iterator[Claim]:
    if family == "related":  # too many to list: drawn as needed
        yield from (claim for claim in iter(lambda: random_claim(rng, family), None) if is_held_out(claim) == unseen)
    claims = [claim for claim in all_claims(family) if is_held_out(claim) == unseen]
    yield from rng.sample(claims, len(claims))


def false_friends(questions: list[Question]) -> int:
    """How many captions are true of the picture of another: none should be."""
    truly = [captions(question.scene) for question in questions]
    pairs = itertools.permutations(range(len(questions)), 2)
    return sum(str(questions[caption].claim) in truly[picture] for caption, picture in pairs)


def swap(claim: Claim) -> Claim:
    """The claim with its two things in each other's place."""
    return Claim(claim.other or claim.figure, relation=claim.relation, other=claim.figure)
