"""Whether all parties compute the same thing, before anybody asks which is faster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from load.bench import answers
from load.bench.callers import HOST, Load, payload_for
from load.bench.connection import Connection
from load.bench.driver import ReferenceLoop
from load.bench.processes import Trouble
from load.bench.servers import Server

COUNT = 4
LEAST_COSINE = 0.999


def check(
    reference: ReferenceLoop, servers: Iterable[Server], *, model: str, images: Path, top_k: int = 0, count: int = COUNT
) -> dict[str, float]:
    """The smallest cosine to the reference by party; raises Trouble when one is below 0.999.

    With `top_k` the scores of so many classes are compared. It also loads every model, so that no window pays for it.
    """
    wanted = [answers.checked(vector) for vector in reference.embed(count)]
    least: dict[str, float] = {}
    for server in servers:
        got = asyncio.run(_embed(server, model, images, top_k, count))
        least[server.party] = min(map(answers.cosine, got, wanted))
    if min(least.values()) < LEAST_COSINE:
        raise Trouble(f"the parties do not compute the same embeddings; smallest cosine to the reference: {least}")
    return least


async def _embed(server: Server, model: str, images: Path, top_k: int, count: int) -> list[answers.Vector]:
    load = Load(
        party=server.party, face="http", port=server.http_port, model=model, callers=1, lead_s=0, window_s=0,
        pictures=str(images), top_k=top_k,
    )  # fmt: skip
    connection, payload, read = Connection(HOST, server.http_port), payload_for(load), answers.reader(server.party)
    read = answers.classes if top_k else read
    try:
        return [read(await _body(connection, payload(number))) for number in range(count)]
    finally:
        connection.close()


async def _body(connection: Connection, request: Sequence[bytes]) -> bytes:
    status, body = await connection.exchange(request)
    if status != 200:
        raise Trouble(f"a picture was answered with {status}: {body[:500]!r}")
    return body
