"""The world that `shapes-clip` learns: its captions are true, and what is held out stays out of training."""

import io
import random
from itertools import chain

import pytest
from PIL import Image

from training.shapes_clip.draw import QUALITIES, SIDES, photograph
from training.shapes_clip.examination import CAPTIONS, examination, false_friends, swap
from training.shapes_clip.pool import GROUP, IMAGE_SIZE, as_seen, draw_chunk, phrase, training_group
from training.shapes_clip.scenes import (
    FAMILIES,
    Claim,
    Figure,
    Scene,
    Thing,
    all_claims,
    all_figures,
    captions,
    is_held_out,
    is_true,
    near_miss,
    random_claim,
    stage,
    truths,
)

RED_CIRCLE, BLUE_SQUARE = Figure("red", "circle"), Figure("blue", "square")


@pytest.fixture
def rng() -> random.Random:
    return random.Random(7)


@pytest.mark.parametrize(
    ("claim", "caption"),
    [
        (Claim(RED_CIRCLE), "a red circle"),
        (Claim(Figure("orange", "star")), "an orange star"),
        (Claim(RED_CIRCLE, size="small"), "a small red circle"),
        (Claim(Figure("red", "cross"), count=3), "three red crosses"),
        (Claim(RED_CIRCLE, relation="left of", other=BLUE_SQUARE), "a red circle left of a blue square"),
        (Claim(BLUE_SQUARE, relation="above", other=RED_CIRCLE), "a blue square above a red circle"),
    ],
)
def test_a_claim_reads_as_a_caption(claim: Claim, caption: str) -> None:
    assert str(claim) == caption


@pytest.mark.parametrize("family", FAMILIES)
def test_a_caption_is_true_of_its_own_scene(family: str, rng: random.Random) -> None:
    for _ in range(300):
        claim = random_claim(rng, family)
        assert is_true(str(claim), stage(claim, rng))


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_a_scene_shows_fits_the_picture(family: str, rng: random.Random) -> None:
    for _ in range(300):
        for thing in stage(random_claim(rng, family), rng).things:
            assert thing.extent / 2 <= min(thing.x, thing.y)
            assert max(thing.x, thing.y) <= 1 - thing.extent / 2


def specific(scene: Scene) -> set[str]:
    """The captions that leave no colour or shape unsaid."""
    whole = (claim for claim in truths(scene) if all(f.colour and f.shape for f in claim.figures))
    return {str(claim) for claim in whole}


def test_a_scene_is_not_described_by_what_it_does_not_show() -> None:
    scene = Scene((Thing(RED_CIRCLE, 0.2, 0.5, 0.25), Thing(BLUE_SQUARE, 0.8, 0.5, 0.4)))
    assert specific(scene) == {
        "a red circle",
        "a small red circle",
        "a blue square",
        "a red circle left of a blue square",
    }
    assert {"a circle", "a blue shape", "two shapes", "a red shape left of a square"} <= captions(scene)
    assert captions(scene).isdisjoint(
        {"a triangle", "two circles", "a square left of a circle", "a circle above a square"}
    )


def test_one_among_several_is_there_too() -> None:
    scene = Scene((Thing(RED_CIRCLE, 0.2, 0.5, 0.4), Thing(RED_CIRCLE, 0.8, 0.5, 0.4)))
    assert specific(scene) == {"a red circle", "two red circles"}


def test_a_relation_is_never_true_both_ways(rng: random.Random) -> None:
    for _ in range(300):
        claim = random_claim(rng, "related")
        assert swap(claim) not in truths(stage(claim, rng))


@pytest.mark.parametrize("family", FAMILIES)
def test_at_least_a_fifth_of_a_family_is_held_out(family: str) -> None:
    claims = list(all_claims(family))
    assert sum(map(is_held_out, claims)) >= len(claims) / 5


def test_every_colour_and_every_shape_is_seen_in_training() -> None:
    seen = [figure for figure in all_figures() if not is_held_out(Claim(figure))]
    assert {figure.colour for figure in seen} == {figure.colour for figure in all_figures()}
    assert {figure.shape for figure in seen} == {figure.shape for figure in all_figures()}


def test_training_never_says_nor_shows_what_is_held_out(rng: random.Random) -> None:
    for _ in range(500):
        group = training_group(rng)
        assert len(group) == GROUP
        for claim, scene in group:
            assert claim in truths(scene)
            assert not any(is_held_out(true) for true in truths(scene))


def test_a_near_miss_is_of_the_same_family(rng: random.Random) -> None:
    for family in FAMILIES:
        claim = random_claim(rng, family)
        assert {near_miss(claim, rng).family for _ in range(100)} == {family}


def test_a_caption_put_differently_still_says_the_same(rng: random.Random) -> None:
    worded = {phrase(Claim(RED_CIRCLE), rng) for _ in range(300)}
    assert {"a red circle", "red circle", "a photo of a red circle"} <= worded
    assert all(words.endswith("red circle") for words in worded)


def test_an_examination_asks_200_captions_of_which_none_is_true_of_anothers_picture() -> None:
    questions = examination(0)
    assert len({str(question.claim) for question in questions}) == CAPTIONS == 200
    assert sum(is_held_out(question.claim) for question in questions) >= 200 / 5
    assert false_friends(questions) == 0


def test_a_photograph_follows_from_its_seed(rng: random.Random) -> None:
    scene = stage(Claim(RED_CIRCLE), rng)
    assert photograph(scene, 1) == photograph(scene, 1)
    assert photograph(scene, 1) != photograph(scene, 2)


def test_photographs_are_jpegs_of_every_size(rng: random.Random) -> None:
    scene = stage(Claim(RED_CIRCLE), rng)
    pictures = [Image.open(io.BytesIO(photograph(scene, seed))) for seed in range(200)]
    sides = [side for picture in pictures for side in picture.size]
    assert {picture.format for picture in pictures} == {"JPEG"}
    assert SIDES[0] <= min(sides) < 80
    assert 450 < max(sides) <= SIDES[1]
    assert QUALITIES == (60, 95)


def test_the_training_pictures_follow_from_the_seed() -> None:
    first, again = (chain.from_iterable(draw_chunk(3, 0, groups=2)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.caption == other.caption
        assert (one.pixels == other.pixels).all()


def test_a_picture_is_seen_small_and_square(rng: random.Random) -> None:
    scene = stage(Claim(RED_CIRCLE), rng)
    assert {as_seen(photograph(scene, seed)).shape for seed in range(30)} == {(IMAGE_SIZE, IMAGE_SIZE, 3)}
