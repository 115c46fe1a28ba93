"""The profiles: how many users are there when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """`users` at once for `seconds`; the first `settle_s` of them, while users come, are in no percentile."""

    users: int
    seconds: float
    settle_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Profile:
    """What it is for, and its stages in order."""

    about: str
    stages: tuple[Stage, ...]

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def at(self, elapsed_s: float) -> int | None:
        """The stage of a moment, by its place; None when all is over."""
        for place, stage in enumerate(self.stages):
            if elapsed_s < stage.seconds:
                return place
            elapsed_s -= stage.seconds
        return None

    def scaled(self, factor: float) -> Profile:
        """The same in `factor` of its time."""
        stages = (Stage(s.users, s.seconds * factor, s.settle_s * min(1.0, factor)) for s in self.stages)
        return Profile(self.about, tuple(stages))


def _levels(levels: Sequence[int], seconds: float) -> tuple[Stage, ...]:
    return tuple(Stage(users, seconds) for users in levels)


PROFILES: Mapping[str, Profile] = {
    "smoke": Profile("a few users, whether everything answers", (Stage(2, 30),)),
    "load": Profile("levels that a deployment is made for", _levels((1, 8, 16, 32, 64), 60)),
    "stress": Profile("doubled until it breaks: what gives first, and whether it says so", _levels(
        (8, 16, 32, 64, 128, 256, 512), 45
    )),
    "spike": Profile("sixteen times as many at once, and back", (Stage(8, 60), Stage(128, 45), Stage(8, 90))),
    "soak": Profile("half an hour of the same: what grows", (Stage(16, 1_800, 30),)),
}  # fmt: skip
