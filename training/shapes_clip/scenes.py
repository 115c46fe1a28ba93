"""The little world `shapes-clip` learns: what a picture may show, what may be said of it, what stays held out."""

import itertools
import math
import random
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "brown", "black", "cyan")
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "arrow")
SIZES = ("small", "large")
COUNTS = {2: "two", 3: "three", 4: "four"}
RELATIONS = ("left of", "above")
FAMILIES = ("plain", "sized", "counted", "related")

# Extents are shares of the picture's shorter side; nothing is laid out between two classes.
SMALL_AT_MOST, LARGE_AT_LEAST = 0.32, 0.55
APART = 0.15  # how far two centres differ before one is left of, or above, the other
_MARGIN = 0.03
_EXTENTS = {"small": (0.24, 0.31), "": (0.38, 0.5), "large": (0.6, 0.85)}
_HELD_OUT_ONE_IN = 4


@dataclass(frozen=True, slots=True)
class Figure:
    """A colour and a shape; where one of them is empty, any."""

    colour: str
    shape: str

    def named(self, size: str = "") -> str:
        words = f"{size} {self}".strip()
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"

    def plural(self) -> str:
        return f"{self}{'es' if self.shape.endswith('s') else 's'}"

    def views(self) -> tuple["Figure", ...]:
        """The figure, and the vaguer ways to call it: by its shape, by its colour, by neither."""
        return (self, Figure("", self.shape), Figure(self.colour, ""), Figure("", ""))

    def __str__(self) -> str:
        return f"{self.colour} {self.shape or 'shape'}".strip()


@dataclass(frozen=True, slots=True)
class Claim:
    """What one caption says: a figure, perhaps its size, how many, or where it stands to another."""

    figure: Figure
    size: str = ""
    count: int = 1
    relation: str = ""
    other: Figure | None = None

    @property
    def family(self) -> str:
        if self.other:
            return "related"
        return "counted" if self.count > 1 else "sized" if self.size else "plain"

    @property
    def figures(self) -> tuple[Figure, ...]:
        return (self.figure, self.other) if self.other else (self.figure,)

    def __str__(self) -> str:
        if self.other:
            return f"{self.figure.named()} {self.relation} {self.other.named()}"
        if self.count > 1:
            return f"{COUNTS[self.count]} {self.figure.plural()}"
        return self.figure.named(self.size)


@dataclass(frozen=True, slots=True)
class Thing:
    """A figure in its place: centre and extent in the unit square, turned by some degrees."""

    figure: Figure
    x: float
    y: float
    extent: float
    turn: float = 0.0

    @property
    def size(self) -> str:
        if self.extent <= SMALL_AT_MOST:
            return "small"
        return "large" if self.extent >= LARGE_AT_LEAST else ""


@dataclass(frozen=True, slots=True)
class Scene:
    """All that one picture shows."""

    things: tuple[Thing, ...]


def truths(scene: Scene) -> frozenset[Claim]:
    """Every claim of the language that holds in the scene, read from its geometry, generously.

    `a red circle` holds wherever there is one, also among several, and so does `a circle`.
    """
    seen = [(view, thing.size) for thing in scene.things for view in thing.figure.views()]
    found = {Claim(view, size=size) for view, own in seen for size in ("", own)}
    counts = Counter(view for thing in scene.things for view in thing.figure.views())
    found |= {Claim(view, count=count) for view, count in counts.items()}
    for one, other in itertools.permutations(scene.things, 2):
        for name in _relations(one, other):
            views = itertools.product(one.figure.views(), other.figure.views())
            found |= {Claim(view, relation=name, other=seen) for view, seen in views if view != seen}
    return frozenset(found)


def _relations(one: Thing, other: Thing) -> Iterator[str]:
    if other.x - one.x >= APART:
        yield "left of"
    if other.y - one.y >= APART:
        yield "above"


def captions(scene: Scene) -> frozenset[str]:
    """Every caption that is true of the scene."""
    return frozenset(str(claim) for claim in truths(scene))


def is_true(caption: str, scene: Scene) -> bool:
    """Whether the caption, worded as `str(claim)` words it, is true of the scene."""
    return caption in captions(scene)


def all_figures() -> tuple[Figure, ...]:
    return tuple(Figure(colour, shape) for colour in COLOURS for shape in SHAPES)


def all_claims(family: str) -> Iterator[Claim]:
    """Every combination of a family, in a fixed order."""
    figures = all_figures()
    match family:
        case "plain":
            yield from (Claim(figure) for figure in figures)
        case "sized":
            yield from (Claim(figure, size=size) for figure in figures for size in SIZES)
        case "counted":
            yield from (Claim(figure, count=count) for figure in figures for count in COUNTS)
        case "related":
            for one, other in itertools.permutations(figures, 2):
                yield from (Claim(one, relation=name, other=other) for name in RELATIONS)
        case _:
            raise ValueError(f"no such family: {family}")


def is_held_out(claim: Claim) -> bool:
    """Whether training never says nor shows this combination.

    Two of nine pairs of colour and shape are drawn in no training picture at all; of the other families
    one combination in four is held out besides. What is said vaguely is no combination.
    """
    if any(_is_held_out_pair(figure) for figure in claim.figures):
        return True
    if claim.family == "plain" or not all(figure.colour and figure.shape for figure in claim.figures):
        return False
    return zlib.crc32(str(claim).encode()) % _HELD_OUT_ONE_IN == 0


def _is_held_out_pair(figure: Figure) -> bool:
    if not (figure.colour and figure.shape):
        return False
    return (COLOURS.index(figure.colour) + 4 * SHAPES.index(figure.shape)) % 9 < 2


def random_claim(rng: random.Random, family: str) -> Claim:
    """Any combination of a family, held out or not."""
    figure, other = rng.sample(all_figures(), 2)
    match family:
        case "plain":
            return Claim(figure)
        case "sized":
            return Claim(figure, size=rng.choice(SIZES))
        case "counted":
            return Claim(figure, count=rng.choice(tuple(COUNTS)))
        case "related":
            return Claim(figure, relation=rng.choice(RELATIONS), other=other)
    raise ValueError(f"no such family: {family}")


def near_miss(claim: Claim, rng: random.Random) -> Claim:
    """A claim that differs from this one in a single respect: what a batch should teach to tell apart."""
    recoloured = replace(claim, figure=replace(claim.figure, colour=rng.choice(COLOURS)))
    reshaped = replace(claim, figure=replace(claim.figure, shape=rng.choice(SHAPES)))
    choices = [recoloured, reshaped]
    if claim.other:
        swapped = replace(claim, figure=claim.other, other=claim.figure)
        choices += [swapped, swapped, replace(claim, relation=rng.choice(RELATIONS))]
    if claim.count > 1:
        choices += [replace(claim, count=rng.choice(tuple(COUNTS)))] * 2
    if claim.size:
        choices.append(replace(claim, size=rng.choice(SIZES)))
    chosen = rng.choice(choices)
    return claim if chosen.figure == chosen.other else chosen


def vaguer(claim: Claim, rng: random.Random) -> Claim:
    """A claim that leaves some colour or shape unsaid: what these words mean by themselves."""
    figure = rng.choice(claim.figure.views())
    other = rng.choice(claim.other.views()) if claim.other else None
    return claim if figure == other else replace(claim, figure=figure, other=other)


def stage(claim: Claim, rng: random.Random) -> Scene:
    """A scene that shows the claim and nothing besides."""
    match claim.family:
        case "related":
            return _stage_pair(claim, rng)
        case "counted":
            return _stage_many(claim, rng)
        case "sized":
            return _stage_one(claim.figure, claim.size, rng)
        case _:
            return _stage_one(claim.figure, rng.choice(("small", "", "", "large")), rng)


def stage_for_training(claim: Claim, rng: random.Random) -> Scene | None:
    """A scene of the claim, or None where the claim or anything else true of the scene is held out."""
    if is_held_out(claim):
        return None
    scene = stage(claim, rng)
    return None if any(is_held_out(true) for true in truths(scene)) else scene


def _stage_one(figure: Figure, size: str, rng: random.Random) -> Scene:
    extent = rng.uniform(*_EXTENTS[size])
    return Scene((_thing(figure, _within(extent, rng), _within(extent, rng), extent, rng),))


def _stage_pair(claim: Claim, rng: random.Random) -> Scene:
    first, second = rng.uniform(0.28, 0.42), rng.uniform(0.28, 0.42)
    gap = rng.uniform(0.02, 0.94 - first - second)
    start = rng.uniform(_MARGIN, 1 - _MARGIN - first - second - gap)
    along = (start + first / 2, start + first + gap + second / 2)
    across = _within(max(first, second) + 0.12, rng)
    places = [(at, across + rng.uniform(-0.06, 0.06)) for at in along]
    if claim.relation == "above":
        places = [(y, x) for x, y in places]
    pairs = zip(claim.figures, places, (first, second), strict=True)
    return Scene(tuple(_thing(figure, x, y, extent, rng) for figure, (x, y), extent in pairs))


def _stage_many(claim: Claim, rng: random.Random) -> Scene:
    longest = {2: 0.38, 3: 0.34, 4: 0.32}[claim.count]
    while True:
        extent = rng.uniform(0.25, longest)
        things = [_thing(claim.figure, _within(extent, rng), _within(extent, rng), extent, rng)]
        for _ in range(40):
            other = _thing(claim.figure, _within(extent, rng), _within(extent, rng), extent, rng)
            if all(_clear(other, thing) for thing in things):
                things.append(other)
            if len(things) == claim.count:
                return Scene(tuple(things))


def _clear(one: Thing, other: Thing) -> bool:
    return math.hypot(one.x - other.x, one.y - other.y) >= 1.15 * max(one.extent, other.extent)


def _within(extent: float, rng: random.Random) -> float:
    return rng.uniform(_MARGIN + extent / 2, 1 - _MARGIN - extent / 2)


def _thing(figure: Figure, x: float, y: float, extent: float, rng: random.Random) -> Thing:
    return Thing(figure, x, y, extent, turn=rng.uniform(-10, 10))
