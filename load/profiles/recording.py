"""What users met: one row a request, one a second for the server's processes; per stage and kind of request."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from load.profiles.stages import Profile


@dataclass(frozen=True, slots=True)
class Request:
    """One answer: seconds since the start, milliseconds, the error code where it failed."""

    at_s: float
    name: str
    ms: float
    code: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """One process at a moment: cores that it used since the moment before, bytes resident."""

    at_s: float
    role: str
    pid: int
    cores: float
    resident: int


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of request in a stage."""

    stage: int
    users: int
    name: str
    count: int
    failed: int
    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    codes: Mapping[str, int]


ALL = "all"


def rows(profile: Profile, requests: Iterable[Request]) -> list[Row]:
    """Of each stage, after it settled: every kind of request, and `all` of them last."""
    sorted_in: dict[tuple[int, str], list[Request]] = defaultdict(list)
    for request in requests:
        place = _settled(profile, request.at_s)
        if place is not None:
            sorted_in[place, request.name].append(request)
            sorted_in[place, ALL].append(request)
    names = sorted({name for _, name in sorted_in} - {ALL})
    return [
        _row(profile, place, name, sorted_in[place, name])
        for place in range(len(profile.stages))
        for name in (*names, ALL)
        if sorted_in[place, name]
    ]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank: the smallest value that so many do not exceed; NaN of none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def usage(profile: Profile, samples: Iterable[Usage]) -> dict[tuple[int, str], tuple[float, int]]:
    """By stage and role: cores on average, and the most bytes that its processes held together."""
    cores: dict[tuple[int, str], dict[float, float]] = defaultdict(lambda: defaultdict(float))
    bytes_: dict[tuple[int, str], dict[float, int]] = defaultdict(lambda: defaultdict(int))
    for sample in samples:
        place = _settled(profile, sample.at_s)
        if place is not None:
            cores[place, sample.role][sample.at_s] += sample.cores
            bytes_[place, sample.role][sample.at_s] += sample.resident
    return {key: (sum(by.values()) / len(by), max(bytes_[key].values())) for key, by in cores.items()}


def _settled(profile: Profile, at_s: float) -> int | None:
    ends, ended = [], 0.0
    for stage in profile.stages:
        ended += stage.seconds
        ends.append(ended)
    place = bisect_left(ends, at_s)
    if place == len(ends):
        return None
    begun = ends[place] - profile.stages[place].seconds
    return place if at_s >= begun + profile.stages[place].settle_s else None


def _row(profile: Profile, place: int, name: str, requests: Sequence[Request]) -> Row:
    stage = profile.stages[place]
    answered = sorted(request.ms for request in requests if not request.code)
    codes = Counter(request.code for request in requests if request.code)
    return Row(
        stage=place,
        users=stage.users,
        name=name,
        count=len(requests),
        failed=sum(codes.values()),
        per_s=len(answered) / (stage.seconds - stage.settle_s),
        p50_ms=percentile(answered, 0.5),
        p95_ms=percentile(answered, 0.95),
        p99_ms=percentile(answered, 0.99),
        codes=codes,
    )
