"""What a question costs a folder of vectors, by how many there are: Qdrant's local mode compares each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.vectors.qdrant import QdrantVectors
from load.bench.stats import percentile
from load.bench.tables import table
from modelmora.domain.pictures.picture import Facts
from modelmora.domain.pictures.search import Filter, Point, Provenance, Question
from modelmora.domain.pictures.spaces import IndexSettings

DIMENSION = 512
COUNTS = (1_000, 10_000, 20_000)
BATCH = 1_000
INDEX = "mm-bench"
_WHEN = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """How long questions took over so many points."""

    points: int
    plain_ms: tuple[float, ...]
    filtered_ms: tuple[float, ...]


def nearest(folder: Path, *, counts: Sequence[int], asked: int, say: Callable[[str], None]) -> list[Answered]:
    """Over random unit vectors; every tenth point has the tag that the filtered questions ask for."""
    return asyncio.run(_nearest(folder, counts, asked, say))


def markdown(found: Sequence[Answered]) -> str:
    rows = [[f"{one.points:,}", *_cells(one.plain_ms), *_cells(one.filtered_ms)] for one in found]
    head = ("points", "p50 ms", "p95 ms", "by a tag: p50 ms", "p95 ms")
    return f"### A folder of vectors, {DIMENSION} dimensions, 20 nearest\n\n{table(head, rows)}\n"


async def _nearest(folder: Path, counts: Sequence[int], asked: int, say: Callable[[str], None]) -> list[Answered]:
    dice, found, there = np.random.default_rng(0), list[Answered](), 0
    vectors = await QdrantVectors.local(folder)
    try:
        await vectors.create(INDEX, dimension=DIMENSION, settings=IndexSettings())
        for count in sorted(counts):
            for start in range(there, count, BATCH):
                rows = _rows(dice, min(BATCH, count - start))
                await vectors.upsert(INDEX, [_point(start + n, row) for n, row in enumerate(rows)])
            there = count
            plain = [await _ms(vectors, row, Filter()) for row in _rows(dice, asked)]
            tagged = [await _ms(vectors, row, Filter(any_tags=("tenth",))) for row in _rows(dice, asked)]
            found.append(Answered(points=count, plain_ms=tuple(plain), filtered_ms=tuple(tagged)))
            say(f"{count:,} points: p95 {percentile(plain, 0.95):.1f} ms, by a tag {percentile(tagged, 0.95):.1f} ms")
    finally:
        await vectors.close()
    return found


async def _ms(vectors: QdrantVectors, row: NDArray[np.float32], among: Filter) -> float:
    start = time.perf_counter()
    hits = await vectors.search(INDEX, Question(vector=row.tobytes(), filter=among))
    took = (time.perf_counter() - start) * 1e3
    if len(hits) != 20:
        raise RuntimeError(f"{len(hits)} of 20 were found")
    return took


def _rows(dice: np.random.Generator, count: int) -> NDArray[np.float32]:
    rows = dice.standard_normal((count, DIMENSION)).astype("<f4")
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _point(number: int, row: NDArray[np.float32]) -> Point:
    name = f"picture-{number}"
    return Point(
        vector=row.tobytes(),
        facts=Facts(filename=f"{name}.jpg", tags=("tenth",) if number % 10 == 0 else (), metadata={"number": number}),
        provenance=Provenance(
            picture_id=name, sha256="0" * 64, model="m", version="1.0.0", precision="fp32", seq=1, embedded_at=_WHEN
        ),
        content_type="image/jpeg",
        created_at=_WHEN,
    )


def _cells(times: Sequence[float]) -> tuple[str, str]:
    return f"{percentile(times, 0.5):.1f}", f"{percentile(times, 0.95):.1f}"
