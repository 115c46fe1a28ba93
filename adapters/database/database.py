"""The database of one process: the connection pool, and the ports that stand on it."""

from __future__ import annotations

import time
from typing import Self

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.database.audit import AuditTable
from adapters.database.clock import Clock
from adapters.database.copying import DatabaseTables
from adapters.database.dead_letters import DeadLettersTable
from adapters.database.desired import DesiredModelsTable
from adapters.database.engine import Transactions, create_engine, sqlite_file, translated
from adapters.database.footprints import FootprintsTable
from adapters.database.holds import HoldsTable
from adapters.database.idempotency import IdempotencyTable
from adapters.database.indexes import IndexesTable
from adapters.database.leases import LeasesTable
from adapters.database.lineage import LineageTable
from adapters.database.migrate import migrate
from adapters.database.models import ModelsTable
from adapters.database.outbox import OutboxTable
from adapters.database.pictures import PicturesTable
from adapters.database.statements import trace_statements
from adapters.database.together import TogetherTables
from adapters.database.versions import VersionsTable
from modelmora import tracing

IMAGES = "modelmora.images"
"""The topic of events about pictures, unless the settings say otherwise."""


class Database:
    """An open database; its attributes are the ports."""

    def __init__(self, engine: AsyncEngine, *, clock: Clock | None = None, images_topic: str = IMAGES) -> None:
        self._engine = engine
        self._transactions = Transactions(engine)
        self.desired = DesiredModelsTable(self._transactions, clock=clock)
        self.footprints = FootprintsTable(self._transactions, clock=clock)
        self.leases = LeasesTable(self._transactions, clock=clock)
        self.audit = AuditTable(self._transactions, clock=clock)
        self.lineage = LineageTable(self._transactions)
        self.models = ModelsTable(self._transactions, self.audit)
        self.versions = VersionsTable(self._transactions, self.audit, self.lineage, clock=clock)
        self.together = TogetherTables(self.models, self.versions, self.audit)
        self.holds = HoldsTable(self._transactions, clock=clock)
        self.idempotency = IdempotencyTable(self._transactions, clock=clock)
        self.pictures = PicturesTable(self._transactions, topic=images_topic, clock=clock)
        self.dead_letters = DeadLettersTable(self._transactions, topic=images_topic, clock=clock)
        self.outbox = OutboxTable(self._transactions, clock=clock)
        self.indexes = IndexesTable(self._transactions, clock=clock)
        self.tables = DatabaseTables(engine, self._transactions)

    @classmethod
    async def open(cls, url: str, *, clock: Clock | None = None, images_topic: str = IMAGES) -> Self:
        """Connects and migrates; an SQLite file and its folder (for this user alone) are made.

        Raises DependencyUnavailable, or WrongState for a database of a newer ModelMora.
        """
        engine = create_engine(url)
        try:
            with translated(engine):
                file = sqlite_file(engine)
                if file is not None:
                    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            await migrate(engine)
            if tracing.on():
                trace_statements(engine)
        except BaseException:
            await engine.dispose()
            raise
        return cls(engine, clock=clock, images_topic=images_topic)

    async def close(self) -> None:
        """Closes every connection; idempotent."""
        await self._engine.dispose()

    async def ping(self) -> float:
        """Milliseconds of one round trip; raises DependencyUnavailable."""
        start = time.perf_counter()
        async with self._transactions.read() as connection:
            await connection.execute(text("SELECT version_num FROM alembic_version"))
        return (time.perf_counter() - start) * 1000
