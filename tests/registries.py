"""A real registry for the doors' tests: the use cases over an SQLite file and a folder, which are made at first use."""

from __future__ import annotations

import asyncio
import functools
import shutil
import tempfile
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from sqlalchemy import event

from adapters.database import Database
from adapters.database.engine import create_engine
from adapters.objects import FileObjects
from modelmora.domain.catalogue import Catalogue
from modelmora.domain.registry.artifact import ArtifactFile
from modelmora.domain.registry.entries import ModelVersion, Running
from modelmora.errors import ModelNotFound
from modelmora.ports import DesiredModels, ModelHost, StoredObject
from modelmora.usecases.registry import Actor, Registration
from modelmora.usecases.registry.roster import Roster
from wiring.registry import declare_in, registry_of

ANN = Actor(name="ann", request_id="r-1")


class RealRegistry:
    """All of it, with a catalogue's models declared. Nothing is made before somebody asks; who did closes it."""

    def __init__(
        self, catalogue: Catalogue, host: ModelHost, desired: DesiredModels, *, database: Database | None = None
    ) -> None:
        """`database` None: an SQLite file of its own."""
        self._catalogue = catalogue
        self.folder = Path(tempfile.mkdtemp(prefix="modelmora-registry-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.file = self.folder / "modelmora.db"
        self.database = database = database or self._own()
        self.objects = FileObjects(self.folder / "objects")
        self.roster = Roster(catalogue, database.models, database.versions, database.audit)
        self.registry = registry_of(database, self.objects, self.roster, host, desired=desired, drain_s=0)
        self.models, self.versions = self.registry.models, self.registry.versions
        self.validation = self.registry.validation

    async def close(self) -> None:
        await self.database.close()

    async def stored(self, content: bytes) -> StoredObject:
        """A file in the object store."""

        async def chunks() -> AsyncIterator[bytes]:
            yield content

        return await self.registry.files.put(chunks())

    async def registered(
        self, version: str = "1.0.0", *, model: str = "birds", content: bytes = b"weights", **more: Any
    ) -> ModelVersion:
        """A version of one file, `model/weights.safetensors`; its model is made where it is not there."""
        try:
            await self.models.get(model)
        except ModelNotFound:
            await self.models.add(model, "classification", by=ANN)
        stored = await self.stored(content)
        file = ArtifactFile(path="model/weights.safetensors", bytes=stored.bytes, sha256=stored.sha256)
        given = {"running": Running(provider="noop"), **more}
        return await self.versions.register(model, Registration(version=version, files=(file,), **given), by=ANN)

    async def approved(self, version: str = "1.0.0", **more: Any) -> ModelVersion:
        """One that passed."""
        return await self.versions.validated(await self.registered(version, **more), by=ANN)

    def _own(self) -> Database:
        engine = create_engine(_url(self.file))
        event.listen(engine.sync_engine, "do_connect", self._make)
        return Database(engine)

    def _make(self, *_: object) -> None:
        """Before the first connection."""
        if not self.file.exists():
            self.file.write_bytes(_made(self._catalogue))


_MADE: dict[str, bytes] = {}


def _made(catalogue: Catalogue) -> bytes:
    """A database with what is declared; made once in a run."""
    key = repr(catalogue.models)
    if key not in _MADE:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "modelmora.db"
            _elsewhere(functools.partial(_declare, _url(file), catalogue))
            _MADE[key] = file.read_bytes()
    return _MADE[key]


async def _declare(url: str, catalogue: Catalogue) -> None:
    database = await Database.open(url)
    refused = await declare_in(database, catalogue.models)
    await database.close()
    assert not refused


def _elsewhere(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On a thread with a loop of its own: somebody's loop may be running here."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _url(file: Path) -> str:
    return f"sqlite+aiosqlite:///{file}"
