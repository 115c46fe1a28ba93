"""A process that registers a version and stops for ever at one point of it, so that it can be killed there."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

from adapters.database import Database
from adapters.objects import FileObjects, S3Objects
from modelmora.domain.registry.entries import Running
from modelmora.ports import Objects
from modelmora.usecases.registry import Registration
from tests.contracts.whole_registry import ANN, Registry

WEIGHTS = b"weights" * 3_000_000
"""Larger than what is sent at once."""


async def forever(*_: Any, **__: Any) -> NoReturn:
    """Says that it is there; nothing after it happens."""
    sys.stdout.write("here\n")
    sys.stdout.flush()
    await asyncio.Event().wait()
    raise AssertionError


async def sent(*, whole: bool) -> AsyncIterator[bytes]:
    for start in range(0, len(WEIGHTS), 2**20):
        if not whole and start > 12 * 2**20:
            await forever()
        yield WEIGHTS[start : start + 2**20]


async def run(point: str, registry: Registry) -> None:
    stored = await registry.files.put(sent(whole=point != "upload"))
    file = await registry.file("config.json", b"{}")
    if point == "uploaded":
        await forever()
    if point == "listed":
        registry.database.versions.add = forever  # type: ignore[method-assign] # the list of files is there, the entry not
    if point == "written":
        registry.database.audit.append = forever  # type: ignore[method-assign] # within the transaction
    weights = type(file)(path="weights", bytes=stored.bytes, sha256=stored.sha256)
    given = Registration(version="1.0.0", files=(file, weights), running=Running(provider="classifier"))
    await registry.versions.register("birds", given, by=ANN)


async def main(point: str, url: str, where: str) -> None:
    database = await Database.open(url)
    await run(point, Registry.over(database, objects_at(where), first_id=5_000))


def objects_at(where: str) -> Objects:
    """A folder, or `endpoint bucket key secret`."""
    if where.startswith("/"):
        return FileObjects(Path(where))
    endpoint, bucket, key, secret = where.split()
    return S3Objects(endpoint, bucket, access_key=key, secret_key=secret, secure=False)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
