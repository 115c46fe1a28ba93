"""The stores of a deployment, opened for a copy of all of them, or to be filled from one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from adapters.database import Database
from modelmora import __version__
from modelmora.errors import DependencyUnavailable
from modelmora.ports import Vectors
from modelmora.settings import Settings
from modelmora.usecases.backup import Backup, Restore
from wiring import objects_of
from wiring.registry import now
from wiring.stores import open_files, open_vectors, vectors_folder


@asynccontextmanager
async def open_backup(settings: Settings) -> AsyncIterator[Backup]:
    """Raises DependencyUnavailable. A server may run over the same stores."""
    async with contextlib.AsyncExitStack() as stack:
        database = await Database.open(settings.database.url)
        stack.push_async_callback(database.close)
        yield Backup(
            database.tables,
            objects_of(settings),
            await open_files(settings, stack),
            records=database.pictures,
            vectors=await _vectors(settings, stack),
            indexes=database.indexes,
            version=__version__,
            clock=now,
        )


@asynccontextmanager
async def open_restore(settings: Settings) -> AsyncIterator[Restore]:
    """Raises DependencyUnavailable. No server runs over these stores yet."""
    async with contextlib.AsyncExitStack() as stack:
        database = await Database.open(settings.database.url)
        stack.push_async_callback(database.close)
        files, vectors = await open_files(settings, stack), await _vectors(settings, stack)
        yield Restore(database.tables, objects_of(settings), files, vectors)


async def _vectors(settings: Settings, stack: contextlib.AsyncExitStack) -> Vectors:
    """Those of a folder belong to one process: a server that runs is asked for them."""
    if vectors_folder(settings) is not None:
        asked = await open_vectors(settings, stack, own=False)
        with contextlib.suppress(DependencyUnavailable):
            await asked.ping()
            return asked
    return await open_vectors(settings, stack)
