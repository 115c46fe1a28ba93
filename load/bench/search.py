"""Searching by words and by a picture, from the request to the results: how long it takes with ViT-B/32."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from load.bench import machine, pictures
from load.bench.callers import HOST
from load.bench.inside import Counted, measured
from load.bench.plan import Point
from load.bench.processes import Trouble
from load.bench.results import Run, Window
from load.bench.servers import Server, start_ours
from load.bench.stats import spread
from load.bench.subjects import Subject
from load.bench.tables import table

MAX_P95_MS = 500.0
CALLERS = (1, 8)
UPLOADED = 32
"""Pictures of one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`kept` pictures are searched, each caller asks for `seconds` at a time."""

    kept: int = 1_000
    windows: int = 5
    seconds: int = 10


def search(subject: Subject, options: Options, folder: Path, *, say: Callable[[str], None]) -> Run:
    """Every question is new, so that each is computed; the windows take turns."""
    fresh, numbers = pictures.Fresh(folder / "pictures"), itertools.count()
    run = Run(model=subject.name, machine=machine.facts(), conditions=_said(subject, options) | {"of": []})
    order: list[list[object]] = []
    ours = start_ours(subject, folder, vectors=(folder / "vectors").as_uri())
    with ours.process:
        run.conditions["found_s"] = asyncio.run(keep(ours, fresh, options.kept))
        asks = {"words": lambda: words(next(numbers)), "picture": lambda: picture(fresh.next())}
        points = list(itertools.product(asks, CALLERS))
        for what, callers in points:
            asyncio.run(asked(ours, asks[what], callers, 2))
        for _, (what, callers) in itertools.product(range(options.windows), points):
            window = asyncio.run(asked(ours, asks[what], callers, options.seconds))
            run.windows.append(window)
            order.append([what, callers])
            told = f"p95 {window.p95_ms or 0:.0f} ms of {window.items}, {window.failed} failed"
            say(f"{what}, {callers} callers: {told}, {window.foreign_cores:.2f} foreign cores")
    run.conditions["of"] = order
    return run


def _said(subject: Subject, options: Options) -> dict[str, object]:
    return {"kept": options.kept, "engine": subject.engine, "precision": subject.precision}


def markdown(run: Run) -> str:
    """The table and whether the promise holds."""
    rows, order = [], run.conditions["of"]
    told = [tuple(one) for one in order] if isinstance(order, list) else []
    for what, callers in dict.fromkeys(told):
        windows = [window for window, of in zip(run.windows, told, strict=True) if of == (what, callers)]
        p50, p95 = (spread([told or 0.0 for told in times]) for times in _times(windows))
        held = "held" if p95.median <= MAX_P95_MS else "NOT held"
        rows.append(
            [
                f"{what}, {callers}",
                str(sum(window.items for window in windows)),
                f"{p50.median:.0f}",
                f"{p95.median:.0f} [{p95.low:.0f} .. {p95.high:.0f}]",
                f"{MAX_P95_MS:.0f}: {held}",
                str(sum(window.failed for window in windows)),
                f"{sum(window.disturbed for window in windows)} of {len(windows)}",
            ]
        )
    head = ("by, callers", "searches", "p50 ms", "p95 ms [windows]", "promised", "failed", "disturbed")
    told_of = run.conditions
    said = f"{told_of['engine']} {told_of['precision']}, {told_of['kept']} kept pictures, nothing remembered"
    return f"### Search: {run.model}, {said}\n\n{table(head, rows)}\n"


def _times(windows: Sequence[Window]) -> tuple[list[float | None], list[float | None]]:
    return [window.p50_ms for window in windows], [window.p95_ms for window in windows]


async def keep(ours: Server, fresh: pictures.Fresh, kept: int) -> float:
    """Uploads them; seconds from the last answer until it was found. Raises Trouble where it is not."""
    async with _client(ours) as client:
        for start in range(0, kept, UPLOADED):
            some = fresh.some(min(UPLOADED, kept - start))
            files = [("files", (f"{start + n}.jpg", data, "image/jpeg")) for n, data in enumerate(some)]
            answer = await client.post("/v1/images", files=files)
            if answer.status_code not in (200, 201):
                raise Trouble(f"uploading answered {answer.status_code}: {answer.text[:500]}")
            last = answer.json()["data"][-1]["id"]
        began = time.perf_counter()
        found = await client.post("/v1/search", json={"id": last, "limit": 1})
        direct = await client.post(
            "/v1/search", files={"image": ("q.jpg", some[-1], "image/jpeg")}, data={"limit": "100"}
        )
    if found.status_code != 200 or last not in {one["id"] for one in direct.json()["results"]}:
        raise Trouble(f"the picture that was uploaded last is not found: {direct.text[:500]}")
    return time.perf_counter() - began


async def asked(ours: Server, ask: Callable[[], dict[str, Any]], callers: int, seconds: int) -> Window:
    """A window of callers who post what `ask` gives, as httpx takes it; no result of a search is a failure."""

    async def call(client: httpx.AsyncClient, until: float, times: list[float]) -> int:
        bad = 0
        while time.perf_counter() < until:
            start = time.perf_counter()
            answer = await client.post(**ask())
            times.append((time.perf_counter() - start) * 1e3)
            bad += not answer.is_success or answer.json().get("results") == []
        return bad

    async def work() -> Counted:
        until, times = time.perf_counter() + seconds, list[float]()
        async with _client(ours) as client:
            failed = sum(await asyncio.gather(*(call(client, until, times) for _ in range(callers))))
        return Counted(items=len(times), failed=failed, times_ms=times)

    return await measured([ours.process.tree()], Point("http", callers), work)


@asynccontextmanager
async def _client(ours: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{ours.http_port}", timeout=60.0) as client:
        yield client


def words(number: int) -> dict[str, Any]:
    return {"url": "/v1/search", "json": {"text": f"a photograph of thing number {number} on a table", "limit": 20}}


def picture(jpeg: bytes) -> dict[str, Any]:
    return {"url": "/v1/search", "files": {"image": ("q.jpg", jpeg, "image/jpeg")}, "data": {"limit": "20"}}
