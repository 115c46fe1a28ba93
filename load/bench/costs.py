"""What a request costs by what it asks for: CPU of the API workers and of the runner; `load.capacity` plans with it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from load.bench import machine, pictures
from load.bench.callers import HOST, Load
from load.bench.cpu import API_ROLE
from load.bench.driver import measure
from load.bench.hop import LEAD_S
from load.bench.inside import measured, streaming
from load.bench.plan import Face, Point
from load.bench.results import Run, Window
from load.bench.search import asked, keep, picture, words
from load.bench.servers import Server, start_ours
from load.bench.stats import Spread, spread
from load.bench.subjects import Subject
from load.bench.tables import table

CACHE = "memory://"
_NUMBERS = 10_000_000
"""More requests than a window has."""

Way = Literal[
    "text-remembered",
    "picture-remembered",
    "text",
    "picture",
    "picture-grpc",
    "picture-batch",
    "search-words",
    "search-picture",
    "upload",
]
WAYS: tuple[Way, ...] = get_args(Way)
MEANING: Mapping[Way, str] = MappingProxyType(
    {
        "text-remembered": "a text over HTTP, its embedding remembered",
        "picture-remembered": "a picture over HTTP, its embedding remembered",
        "text": "a text over HTTP, computed",
        "picture": "a picture over HTTP, computed",
        "picture-grpc": "a picture over gRPC, computed",
        "picture-batch": "a picture of a GenerateBatch, computed",
        "search-words": "a search by words never asked before",
        "search-picture": "a search by a picture never seen before",
        "upload": "a picture uploaded, embedded and indexed",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`callers` wait at once in every way but GenerateBatch, which has one; `kept` pictures are searched."""

    callers: int = 32
    kept: int = 1_000
    windows: int = 3
    seconds: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """CPU milliseconds a request, by whose they are."""

    way: Way
    api: Spread
    runner: Spread


def costs(subject: Subject, options: Options, folder: Path, *, say: Callable[[str], None]) -> Run:
    """The ways to ask take turns; each computes what its name says, all of it by the one model."""
    fresh = pictures.Fresh(folder / "pictures")
    said = {"callers": options.callers, "kept": options.kept, "engine": subject.engine, "precision": subject.precision}
    run = Run(model=subject.name, machine=machine.facts(), conditions={**said, "of": []})
    order: list[str] = []
    ours = start_ours(subject, folder, cache=CACHE, vectors=(folder / "vectors").as_uri())
    with ours.process:
        asyncio.run(keep(ours, fresh, options.kept))
        drives = _drives(ours, subject, options, folder, fresh)
        for drive in drives.values():
            drive(2)
        for _, what in itertools.product(range(options.windows), WAYS):
            window = drives[what](options.seconds)
            run.windows.append(window)
            order.append(what)
            say(f"{what}: {window.per_s:.0f}/s, {window.cpu_ms:.2f} ms, {window.failed} failed")
    run.conditions["of"] = order
    return run


def by_way(run: Mapping[str, Any]) -> dict[Way, Cost]:
    """Of a run as `--json` wrote it, by way; raises ValueError where it is none of this command."""
    order = run.get("conditions", {}).get("of", [])
    windows: dict[Way, list[Mapping[str, Any]]] = {way: [] for way in WAYS}
    for way, window in zip(order, run.get("windows", ()), strict=True):
        if way not in windows:
            raise ValueError(f"{way!r} is no way to ask: the file is to be one that `load.bench costs --json` wrote")
        windows[way].append(window)
    empty = [way for way, found in windows.items() if not found]
    if empty:
        raise ValueError(f"the file has no window of {', '.join(empty)}: `load.bench costs --json` writes them all")
    return {way: _cost(way, found) for way, found in windows.items()}


def markdown(run: Mapping[str, Any]) -> str:
    """The costs; the run as `--json` wrote it."""
    found, failed = by_way(run), sum(window["failed"] for window in run["windows"])
    rows = [[MEANING[one.way], _ends(one.api), _ends(one.runner)] for one in found.values()]
    told = run["conditions"]
    head = ("a request", "API CPU ms", "runner CPU ms")
    return (
        f"### {run['model']}, {told['engine']} {told['precision']}, {told['kept']} kept pictures\n\n"
        f"{table(head, rows)}\n\n{failed} failed.\n"
    )


def _cost(way: Way, windows: list[Mapping[str, Any]]) -> Cost:
    api = [window["cpu_s"].get(API_ROLE, 0.0) / window["items"] * 1e3 for window in windows]
    every = [sum(window["cpu_s"].values()) / window["items"] * 1e3 for window in windows]
    rest = [whole - mine for whole, mine in zip(every, api, strict=True)]
    return Cost(way=way, api=spread(api), runner=spread(rest))


def _drives(
    ours: Server, subject: Subject, options: Options, folder: Path, fresh: pictures.Fresh
) -> dict[Way, Callable[[int], Window]]:
    numbers, callers = itertools.count(), options.callers
    beginnings = itertools.count(_NUMBERS, _NUMBERS)  # the first ones are those of `fresh`
    drawn = folder / "pictures"

    def embed(face: Face, drawn: Path | None, distinct: int) -> Callable[[int], Window]:
        return lambda seconds: measure(
            ours,
            Load(
                party="ours", face=face, port=ours.port(face), model=subject.name, callers=callers,
                lead_s=LEAD_S, window_s=seconds, pictures=None if drawn is None else str(drawn), distinct=distinct,
                first=0 if distinct else next(beginnings),
            ),
            logs=folder,
        )  # fmt: skip

    def ask(what: Callable[[], dict[str, Any]]) -> Callable[[int], Window]:
        return lambda seconds: asyncio.run(asked(ours, what, callers, seconds))

    def batch(seconds: int) -> Window:
        url, each = f"grpc://{HOST}:{ours.grpc_port}", (fresh.next() for _ in itertools.count())
        work = partial(streaming, url, each, model=subject.name, seconds=seconds)
        return asyncio.run(measured([ours.process.tree()], Point("grpc", 1), work))

    return {
        "text-remembered": embed("http", None, pictures.COUNT),
        "picture-remembered": embed("http", drawn, pictures.COUNT),
        "text": embed("http", None, 0),
        "picture": embed("http", drawn, 0),
        "picture-grpc": embed("grpc", drawn, 0),
        "picture-batch": batch,
        "search-words": ask(lambda: words(next(numbers))),
        "search-picture": ask(lambda: picture(fresh.next())),
        "upload": ask(lambda: {"url": "/v1/images", "files": {"files": ("u.jpg", fresh.next(), "image/jpeg")}}),
    }


def _ends(of: Spread) -> str:
    return f"{of.median:.2f} [{of.low:.2f} .. {of.high:.2f}]"
