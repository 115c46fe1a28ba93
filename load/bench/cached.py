"""What a remembered embedding costs the API worker: over HTTP, through GenerateBatch, and in the use case alone."""

from __future__ import annotations

import asyncio
import io
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image as Pillow

from adapters.cache.memory import MemoryCache
from load.bench import machine, pictures
from load.bench.callers import HOST, Load
from load.bench.driver import measure
from load.bench.hop import LEAD_S, api_us
from load.bench.inside import measured, streaming
from load.bench.plan import Point
from load.bench.results import Run, Window
from load.bench.servers import Server, start_ours
from load.bench.stats import Spread, spread
from load.bench.subjects import prepare
from load.bench.tables import table
from modelmora.domain.description import Description
from modelmora.domain.inference import Call, Content, Embedded, Image, Vector
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Ok, Outcome
from modelmora.domain.preprocess import Preprocess
from modelmora.ports import Watch
from modelmora.usecases.cached import CachedEmbedder

MAX_HTTP_US = 330.0
MAX_BATCH_US = 150.0
DIMENSION = 512
SIDE = 224
DISTINCT = 64
QUALITY = 93
"""About 20 kB a picture."""

_WHAT = {"texts": "a text over HTTP", "pictures": "a picture over HTTP", "batch": "a picture through GenerateBatch"}
_MOST = {"texts": MAX_HTTP_US, "pictures": MAX_HTTP_US, "batch": MAX_BATCH_US}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How it is driven: `callers` over HTTP with one item a request, one caller of GenerateBatch."""

    callers: int = 32
    windows: int = 5
    seconds: int = 10
    cache: str = "memory://"


def cached(options: Options, folder: Path, *, say: Callable[[str], None]) -> Run:
    """The same requests again and again, for a model that computes nothing; nothing is computed in a window."""
    subject = replace(prepare("noop", folder), config={"dimension": DIMENSION, "image_size": SIDE})
    drawn = _draw(folder / "pictures")
    bytes_each = sum(len(one) for one in pictures.read(drawn)) // DISTINCT
    said = {"cache": options.cache, "callers": options.callers, "picture_bytes": bytes_each}
    run = Run(model=subject.name, machine=machine.facts(), conditions={**said, "alone_us": alone(drawn), "of": []})
    order: list[str] = []
    ours = start_ours(subject, folder, cache=options.cache)
    with ours.process:
        drives: dict[str, Callable[[int], Window]] = {
            "texts": lambda seconds: _by_http(ours, options, None, folder, seconds=seconds),
            "pictures": lambda seconds: _by_http(ours, options, drawn, folder, seconds=seconds),
            "batch": lambda seconds: _by_batch(ours, drawn, seconds=seconds),
        }
        for drive in drives.values():
            drive(2)  # loads the model and fills the cache
        for _, what in itertools.product(range(options.windows), drives):
            window = drives[what](options.seconds)
            run.windows.append(window)
            order.append(what)
            costs = f"{window.per_s:.0f}/s, {api_us(window):.0f} us of API CPU"
            say(f"{_WHAT[what]}: {costs}, {window.failed} failed, {window.foreign_cores:.2f} foreign cores")
    run.conditions["of"] = order
    return run


def markdown(run: Run) -> str:
    """The table and whether the promises hold."""
    rows = []
    for what, text in _WHAT.items():
        windows = [window for window, of in zip(run.windows, _order(run), strict=True) if of == what]
        api = spread([api_us(window) for window in windows])
        held = "held" if api.median <= _MOST[what] else "NOT held"
        disturbed = sum(window.disturbed for window in windows)
        rows.append(
            [
                text,
                _ends(spread([window.per_s for window in windows])),
                _ends(api),
                f"{_MOST[what]:.0f}: {held}",
                str(sum(window.failed for window in windows)),
                f"{disturbed} of {len(windows)}",
            ]
        )
    said = run.conditions
    head = ("remembered", "items/s", "API us/item", "promised", "failed", "disturbed")
    return (
        f"### Remembered embeddings: {said['cache']}, {said['callers']} callers over HTTP, pictures of "
        f"{said['picture_bytes']} bytes\n\n{table(head, rows)}\n\n"
        f"The use case alone, us an item by the items of a request: {said['alone_us']}.\n"
    )


def alone(drawn: Path) -> dict[int, float]:
    """Microseconds of CPU an item that `CachedEmbedder` takes for a hit in memory, by the items of a request."""
    return asyncio.run(_alone([Image(one) for one in pictures.read(drawn)]))


class _Made:
    """The ports Embedder and Describer of a model whose vectors are all alike."""

    async def describe(self, model: ModelSpec, *, deadline: float) -> Description:
        how = Preprocess(resize="exact", height=SIDE, width=SIDE)
        return Description(model=model.key, dimension=DIMENSION, image=how)

    async def embed(
        self, model: ModelSpec, task: Task, items: Sequence[Content], *, call: Call, watch: Watch | None = None
    ) -> list[Outcome[Embedded]]:
        return [Ok(Embedded(Vector(bytes(4 * DIMENSION)))) for _ in items]


async def _alone(images: Sequence[Image]) -> dict[int, float]:
    made, model = _Made(), ModelSpec(name="m", version="1.0.0", type="embedding", provider="noop", source="bundled:m")
    embedder = CachedEmbedder(made, made, MemoryCache(max_bytes=2**26, ttl_s=3600))
    call, rounds, found = Call(request_id="r", deadline=time.monotonic() + 600), 500, {}
    for count in (1, 32):
        items = images[:count]
        await embedder.embed(model, "embed_image", items, call=call)
        start = time.process_time()
        for _ in range(rounds):
            await embedder.embed(model, "embed_image", items, call=call)
        found[count] = round((time.process_time() - start) / rounds / count * 1e6, 1)
    return found


def _by_http(ours: Server, options: Options, drawn: Path | None, folder: Path, *, seconds: int) -> Window:
    load = Load(
        party="ours",
        face="http",
        port=ours.http_port,
        model="noop",
        callers=options.callers,
        lead_s=LEAD_S,
        window_s=seconds,
        pictures=None if drawn is None else str(drawn),
        distinct=DISTINCT,
    )
    return measure(ours, load, logs=folder)


def _by_batch(ours: Server, drawn: Path, *, seconds: int) -> Window:
    """The caller is this process."""
    jpegs = pictures.read(drawn)
    work = partial(streaming, f"grpc://{HOST}:{ours.grpc_port}", itertools.cycle(jpegs), model="noop", seconds=seconds)
    return asyncio.run(measured([ours.process.tree()], Point("grpc", 1), work))


def _draw(folder: Path) -> Path:
    """Distinct pictures of 224 x 224 pixels."""
    for path in pictures.draw(folder, count=DISTINCT):
        sink = io.BytesIO()
        Pillow.open(path).resize((SIDE, SIDE)).save(sink, "JPEG", quality=QUALITY)
        path.write_bytes(sink.getvalue())
    return folder


def _order(run: Run) -> list[str]:
    told = run.conditions["of"]
    return [str(one) for one in told] if isinstance(told, list) else []


def _ends(spread_: Spread) -> str:
    return f"{spread_.median:.0f} [{spread_.low:.0f} .. {spread_.high:.0f}]"
