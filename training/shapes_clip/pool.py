"""The training pictures, drawn once before training and held in memory as the network sees them."""

import io
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
from PIL import Image

from training.shapes_clip.draw import photograph
from training.shapes_clip.scenes import (
    FAMILIES,
    Claim,
    Scene,
    captions,
    near_miss,
    random_claim,
    stage_for_training,
    vaguer,
)

IMAGE_SIZE = 96
GROUP = 2  # pictures that differ little, always trained on together
_GROUPS_A_CHUNK = 500
_SHARES = (3, 3, 5, 6)  # of the families, in their order

_VAGUE = 0.2  # this share of the captions leaves some colour or shape unsaid
_PREFIXES = ("a photo of ", "a picture of ", "an image of ")


@dataclass(frozen=True, slots=True)
class Example:
    """One training picture, its caption as worded and as it would be, and every caption true of the picture."""

    pixels: npt.NDArray[np.uint8]
    worded: str
    caption: str
    truths: frozenset[str]


def draw_pool(pictures: int, *, seed: int, workers: int) -> Iterator[list[list[Example]]]:
    """Chunks of groups of examples; the same for a seed, however many workers draw them."""
    chunks = -(-pictures // (_GROUPS_A_CHUNK * GROUP))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        yield from executor.map(partial(draw_chunk, seed, groups=_GROUPS_A_CHUNK), range(chunks))


def draw_chunk(seed: int, chunk: int, *, groups: int) -> list[list[Example]]:
    rng = random.Random(f"{seed}/{chunk}")
    return [[_example(claim, scene, rng) for claim, scene in training_group(rng)] for _ in range(groups)]


def training_group(rng: random.Random) -> list[tuple[Claim, Scene]]:
    """A claim and its near misses, none of them held out, each with a scene."""
    group: list[tuple[Claim, Scene]] = []
    while not group:
        family = rng.choices(FAMILIES, _SHARES)[0]
        group += _staged(random_claim(rng, family), rng)
    while len(group) < GROUP:
        group += _staged(near_miss(rng.choice(group)[0], rng), rng)
    return group


def _staged(claim: Claim, rng: random.Random) -> list[tuple[Claim, Scene]]:
    scene = stage_for_training(claim, rng)
    return [(claim, scene)] if scene else []


def _example(claim: Claim, scene: Scene, rng: random.Random) -> Example:
    pixels = as_seen(photograph(scene, rng.getrandbits(64)))
    said = vaguer(claim, rng) if rng.random() < _VAGUE else claim
    return Example(pixels, phrase(said, rng), str(said), captions(scene))


def phrase(claim: Claim, rng: random.Random) -> str:
    """The caption, now and then as others would put it."""
    words = str(claim)
    if rng.random() < 0.15:
        words = words.removeprefix("an ").removeprefix("a ")
    if rng.random() < 0.2:
        words = rng.choice(_PREFIXES) + words
    return words


def as_seen(encoded: bytes) -> npt.NDArray[np.uint8]:
    """What open_clip's own preprocessing leaves of a JPEG, before it is normalised: shorter side, centred square."""
    picture = Image.open(io.BytesIO(encoded)).convert("RGB")
    width, height = picture.size
    shorter = min(width, height)
    picture = picture.resize(
        (int(IMAGE_SIZE * width / shorter), int(IMAGE_SIZE * height / shorter)), Image.Resampling.BICUBIC
    )
    left, top = round((picture.width - IMAGE_SIZE) / 2), round((picture.height - IMAGE_SIZE) / 2)
    return np.asarray(picture.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE)))
