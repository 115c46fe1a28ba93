"""Pictures announced over Kafka, and the same pictures through GenerateBatch: what each costs our processes."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aiokafka import AIOKafkaProducer

from load.bench import machine, pictures
from load.bench.callers import HOST
from load.bench.inside import Counted, measured, streamed
from load.bench.plan import Point
from load.bench.processes import PASSIVE, Trouble
from load.bench.results import Run, Window
from load.bench.stats import paired_ratios, spread
from load.bench.subjects import Subject
from load.bench.tables import ratio, table
from load.chaos.announcements import TOPIC
from load.chaos.parts import INCOMING, Stack
from load.chaos.truth import open_ways, registered_pictures
from modelmora.client import Client
from modelmora.domain.events.codec import to_kept_parts
from modelmora.domain.events.images import registered
from modelmora.domain.pictures.picture import Facts, Picture
from modelmora.ids import new_id

MAX_RATIO = 1.15
LOOK_S = 0.05
PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`count` pictures a window, in so many pairs of windows."""

    count: int = 512
    pairs: int = 5


def bulk(subject: Subject, options: Options, folder: Path, *, say: Callable[[str], None]) -> Run:
    """In turn; nothing is remembered, so that both compute each picture. Raises Trouble."""
    file = folder / "ModelRegistry.yaml"
    file.write_text(subject.registry(0))
    env = {"MODELMORA_REGISTRY": str(file), "MODELMORA_CACHE_URL": "null://", **PASSIVE}
    run = Run(model=subject.name, machine=machine.facts(), conditions={"count": options.count})
    with tempfile.TemporaryDirectory(prefix="modelmora-bulk-") as place:  # PostgreSQL runs as nobody where this is root
        _pairs(Stack(Path(place), env=env), run, pictures.Fresh(folder / "pictures"), options, say)
    return run


def _pairs(stack: Stack, run: Run, fresh: pictures.Fresh, options: Options, say: Callable[[str], None]) -> None:
    with stack.running():
        asyncio.run(_pair(stack, run.model, fresh, 64))  # loads the model, makes the index
        for pair in range(options.pairs):
            both = asyncio.run(_pair(stack, run.model, fresh, options.count))
            run.windows.extend(both)
            told = [f"{window.cpu_ms:.1f} ms of CPU a picture, {window.per_s:.0f}/s" for window in both]
            say(f"{pair + 1}: announced {told[0]}; GenerateBatch {told[1]}")


def markdown(run: Run) -> str:
    """The table and whether the promise holds."""
    ways = {"announced over Kafka": run.windows[0::2], "GenerateBatch": run.windows[1::2]}
    rows = []
    for name, windows in ways.items():
        costs, speeds = spread([w.cpu_ms for w in windows]), spread([w.per_s for w in windows])
        ends = f"{costs.median:.1f} [{costs.low:.1f} .. {costs.high:.1f}]"
        rows.append([name, ends, f"{speeds.median:.1f}", _roles(windows), str(sum(w.failed for w in windows))])
    ratios = spread(paired_ratios(*([w.cpu_ms for w in windows] for windows in ways.values())))
    held = "held" if ratios.median <= MAX_RATIO else "NOT held"
    head = ("way", "CPU ms/picture", "pictures/s", "by role", "failed")
    return (
        f"### Bulk: {run.model}, {run.conditions['count']} pictures a window\n\n{table(head, rows)}\n\n"
        f"CPU per picture, announced to GenerateBatch: {ratio(ratios)}x; at most {MAX_RATIO}x is promised: {held}.\n"
    )


async def _pair(stack: Stack, model: str, fresh: pictures.Fresh, count: int) -> tuple[Window, Window]:
    announced = await asyncio.to_thread(_lay_out, stack, fresh.some(count))
    sent = fresh.some(count)
    ours = [stack.api.tree(), stack.subscriber.tree()]
    line = await measured(ours, Point("grpc", 1), lambda: _announced(stack, announced))
    batch = await measured(ours, Point("grpc", 1), lambda: _batch(stack, model, sent))
    return line, batch


def _lay_out(stack: Stack, files: Sequence[bytes]) -> list[Picture]:
    client, now = stack.client(), datetime.now(UTC)
    made = []
    for data in files:
        sha256 = hashlib.sha256(data).hexdigest()
        client.put_object(INCOMING, f"{sha256}.jpg", io.BytesIO(data), len(data))
        made.append(
            Picture(
                id=new_id(),
                sha256=sha256,
                object=f"s3://{INCOMING}/{sha256}.jpg",
                content_type="image/jpeg",
                bytes=len(data),
                facts=Facts(filename=f"{sha256[:8]}.jpg"),
                created_at=now,
                changed_at=now,
            )
        )
    return made


async def _announced(stack: Stack, announced: Sequence[Picture]) -> Counted:
    """All at once; until every one is through its way."""
    before = await registered_pictures(stack.database_url)
    producer = AIOKafkaProducer(bootstrap_servers=stack.kafka.brokers, acks="all")
    await producer.start()
    try:
        for picture in announced:
            event = registered(picture, source="/bench", id_=new_id(), time=datetime.now(UTC), topic=TOPIC)
            key, value, headers = to_kept_parts(event)
            await producer.send(TOPIC, value, key=key, headers=list(headers))
        await producer.flush()
        async with asyncio.timeout(PATIENCE_S):  # another process sets no event of ours
            while await registered_pictures(stack.database_url) < before + len(announced):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
            while await open_ways(stack.database_url):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
    except TimeoutError as late:
        raise Trouble(f"not all of {len(announced)} pictures were indexed in {PATIENCE_S:.0f} s") from late
    finally:
        await producer.stop()
    return Counted(items=len(announced))


async def _batch(stack: Stack, model: str, files: Sequence[bytes]) -> Counted:
    async with Client(f"grpc://{HOST}:{stack.grpc}", timeout=60.0) as client:
        return await streamed(client, iter(files), model=model)


def _roles(windows: Sequence[Window]) -> str:
    items = sum(window.items for window in windows)
    roles = sorted({role for window in windows for role in window.cpu_s})
    spent = {role: 1e3 * sum(window.cpu_s.get(role, 0.0) for window in windows) / items for role in roles}
    return ", ".join(f"{role} {ms:.1f}" for role, ms in spent.items())
