"""Who is measured where and in which order, and when a point has been measured long enough."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from load.bench.stats import MIN_PAIRS

Face = Literal["http", "grpc"]
Party = Literal["ours", "reference", "bentoml", "litserve", "litserve-tuned", "mlserver", "infinity"]
Verdict = Literal["stable", "unstable"]

PARTIES: tuple[Party, ...] = get_args(Party)
USUAL: tuple[Party, ...] = ("ours", "reference", "bentoml")
CALLERS = (1, 8, 32, 64)
SOAK_CALLERS = 64
SOAK_S = 60.0
POINT_S = 720.0
_POINT = re.compile(r"(http|grpc):([1-9]\d{0,3})")


@dataclass(frozen=True, slots=True)
class Point:
    """A face of our service and how many callers wait on it at once."""

    face: Face
    callers: int

    @classmethod
    def parse(cls, text: str) -> Point:
        """`http:8`; raises ValueError on anything else."""
        match = _POINT.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"{text!r} is not a point; write a face and a number of callers, such as http:8 or grpc:32"
            )
        return cls("http" if match[1] == "http" else "grpc", int(match[2]))

    def __str__(self) -> str:
        return f"{self.face}:{self.callers}"


ALL_POINTS = tuple(Point(face, callers) for face in ("http", "grpc") for callers in CALLERS)
PAIRED_POINTS = frozenset({Point("http", 1), Point("http", 8), Point("http", 32), Point("grpc", 32)})
PAIRED_WHEN_ASKED = frozenset({Point("http", 64)})
"""Not worth its time in a run of everything, but a pair when it is named."""


def parties(text: str, *, litserve: Sequence[Party]) -> tuple[Party, ...]:
    """`ours,reference,litserve`, where `litserve` stands for the ways in which it runs; else raises ValueError."""
    chosen: list[Party] = []
    for name in (part.strip() for part in text.split(",")):
        if name not in PARTIES:
            raise ValueError(f"{name!r} is not a party; there are {', '.join(PARTIES)}")
        chosen += litserve if name == "litserve" else [party for party in PARTIES if party == name]
    if "ours" not in chosen:
        raise ValueError("every ratio is ours to another's: name ours among the parties")
    return tuple(party for party in PARTIES if party in chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much time a point may take: `pairs` at least, `point_s` at most for three parties, in proportion for more."""

    window_s: float
    lead_s: float = 3.0
    pairs: int = MIN_PAIRS
    point_s: float = POINT_S
    soak_s: float = SOAK_S
    parties: int = len(USUAL)

    @property
    def pass_s(self) -> float:
        """What one pass over all parties takes, a little more than its windows."""
        return self.parties * (self.window_s + self.lead_s + 2.0)

    @property
    def longest_s(self) -> float:
        """All passes of a point together."""
        return self.point_s * max(1.0, self.parties / len(USUAL))

    def unpaired_s(self, point: Point) -> float:
        """An unpaired window; the one with the most callers is long enough to show that none fails."""
        return max(self.window_s, self.soak_s) if point.callers >= SOAK_CALLERS else self.window_s


def order(number: int, parties: Sequence[Party] = USUAL) -> tuple[Party, ...]:
    """The parties of a pass, there and back, so that a machine that drifts favours none."""
    return tuple(parties if number % 2 == 0 else reversed(parties))


def decide(pairs: int, stable: bool, *, elapsed_s: float, budget: Budget) -> Verdict | None:
    """The verdict after `pairs` passes, or None when another pass is due."""
    if pairs >= budget.pairs and stable:
        return "stable"
    return "unstable" if elapsed_s + budget.pass_s > budget.longest_s else None
