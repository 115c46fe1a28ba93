"""What became of every picture: the database and the index are asked, and compared with what was announced."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from adapters.vectors.owner import OwnerVectors, socket_of
from load.chaos.announcements import Announced

PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Ways by picture (their states), reasons of dead letters by picture, and the points of the index, each as often
    as it is there."""

    ways: Mapping[str, Collection[str]]
    letters: Mapping[str, str]
    points: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The verdict: `lost` are in no index and no letter, `twice` have several points, `strays` are points or letters
    that should not be, `silent` are dead without a reason."""

    indexed: int
    given_up: int
    lost: Sequence[str] = ()
    twice: Sequence[str] = ()
    strays: Sequence[str] = ()
    silent: Sequence[str] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return not (self.lost or self.twice or self.strays or self.silent)


def judged(announced: Sequence[Announced], found: Found) -> Truth:
    """Every picture is indexed exactly once, or in the dead letters with its reason, as what is no picture must be."""
    known = {one.picture.id for one in announced}
    indexed = {id_ for id_, states in found.ways.items() if set(states) == {"indexed"}}
    lost = [i for i in known if i not in found.letters and (i not in indexed or i not in found.points)]
    spoilt = {one.picture.id for one in announced if not one.good}
    strays = [*(id_ for id_ in found.points if id_ not in known), *sorted(spoilt & found.points.keys())]
    return Truth(
        indexed=len(indexed & found.points.keys()),
        given_up=len(known & found.letters.keys()),
        lost=sorted(lost),
        twice=sorted(id_ for id_, count in found.points.items() if count > 1),
        strays=strays,
        silent=sorted(id_ for id_, reason in found.letters.items() if not reason),
        reasons=Counter(found.letters.values()),
    )


async def looked_up(database_url: str, vectors: Path) -> Found:
    """Asks the database itself, and the process that has the vectors."""
    connection = await asyncpg.connect(database_url)
    try:
        ways: dict[str, list[str]] = {}
        for row in await connection.fetch("SELECT picture_id, state FROM ways"):
            ways.setdefault(row["picture_id"], []).append(row["state"])
        letters = await connection.fetch("SELECT picture_id, code FROM dead_letters")
    finally:
        await connection.close()
    asking = OwnerVectors(socket_of(vectors))
    points: Counter[str] = Counter()
    try:
        for name in await asking.names():
            after: str | None = None
            while True:
                ids, after = await asking.ids(name, after=after, limit=PAGE)
                points.update(ids)
                if after is None:
                    break
    finally:
        await asking.close()
    return Found(ways=ways, letters={row["picture_id"]: row["code"] for row in letters}, points=points)


async def open_ways(database_url: str) -> int:
    """How many ways have not ended."""
    connection = await asyncpg.connect(database_url)
    try:
        query = "SELECT count(*) FROM ways WHERE state IN ('received', 'working', 'retry_wait')"
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


async def registered_pictures(database_url: str) -> int:
    """How many records there are."""
    connection = await asyncpg.connect(database_url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM pictures"))
    finally:
        await connection.close()


def told(truth: Truth) -> str:
    """As JSON, a line."""
    return json.dumps(
        {
            "indexed": truth.indexed,
            "given_up": truth.given_up,
            "reasons": dict(truth.reasons),
            "lost": list(truth.lost),
            "twice": list(truth.twice),
            "strays": list(truth.strays),
            "silent": list(truth.silent),
        }
    )
