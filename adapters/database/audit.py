"""The audit's chain: entries are appended within the transaction of what they tell of."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.clock import Clock, now
from adapters.database.engine import Transactions, upsert
from adapters.database.paging import Keyset, Row
from adapters.database.tables import audit as table
from adapters.database.tables import audit_heads as heads
from modelmora.domain.registry.audit import BEGINNING, AuditEntry, Broken, Change, Link, broken
from modelmora.domain.registry.pages import AuditQuery, Page

_ORDER = Keyset(table.c.seq, table.c.seq, large=(table.c.before, table.c.after))
STRIDE = 1_000
"""So many entries are read at a time."""


class AuditTable:
    """The port `AuditLog`."""

    def __init__(self, transactions: Transactions, *, tenant: str = "default", clock: Clock | None = None) -> None:
        self._transactions = transactions
        self._tenant = tenant
        self._clock = clock

    @asynccontextmanager
    async def recording(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that changes what is registered: the only one from its first moment on, so that what it reads
        still holds when it writes, and no two wait for each other."""
        async with self._transactions.write() as connection:
            await self._lock(connection)
            yield connection

    async def append(self, connection: AsyncConnection, change: Change) -> AuditEntry:
        """Within a transaction that is `recording`."""
        last = await self._head(connection)
        entry = AuditEntry.following(last, change, at=await now(connection, self._clock))
        await connection.execute(insert(table).values(**_row(entry), tenant=self._tenant))
        moved = {"seq": entry.seq, "digest": entry.digest}
        await connection.execute(update(heads).where(heads.c.tenant == self._tenant).values(**moved))
        return entry

    async def entries(self, query: AuditQuery) -> Page[AuditEntry]:
        """See the port."""
        statement = select(table).where(table.c.tenant == self._tenant)
        for name in ("subject", "actor", "action"):
            if (value := getattr(query, name)) is not None:
                statement = statement.where(table.c[name] == value)
        if query.after is not None:
            statement = statement.where(table.c.seq > query.after)
        async with self._transactions.read() as connection:
            rows, cursor = await Keyset(table.c.seq, table.c.seq, large=(table.c.before, table.c.after)).rows(
                connection, statement, query.page
            )
        return Page(tuple(map(_entry, rows)), cursor)

    async def subjects(self, *, after: int) -> Sequence[str]:
        """See the port."""
        later = (table.c.tenant == self._tenant) & (table.c.seq > after)
        async with self._transactions.read() as connection:
            return (await connection.execute(select(table.c.subject).where(later).distinct())).scalars().all()

    async def head(self) -> int:
        """See the port."""
        async with self._transactions.read() as connection:
            return (await self._head(connection)).seq

    async def broken(self) -> Broken | None:
        """See the port."""
        async with self._transactions.read() as connection:
            last, head = BEGINNING, await self._head(connection)
            while True:
                of_tenant = (table.c.tenant == self._tenant) & (table.c.seq > last.seq)
                query = select(table).where(of_tenant).order_by(table.c.seq).limit(STRIDE)
                entries = [_entry(row) for row in (await connection.execute(query)).mappings()]
                found = broken(entries, after=last)
                if found is not None or not entries:
                    return found or broken((), after=last, until=head)
                last = entries[-1].link

    async def _lock(self, connection: AsyncConnection) -> None:
        first = {"tenant": self._tenant, "seq": BEGINNING.seq, "digest": BEGINNING.digest}
        await connection.execute(upsert(connection, heads).values(**first).on_conflict_do_nothing())
        locked = select(heads.c.seq).where(heads.c.tenant == self._tenant).with_for_update()
        await connection.execute(locked)

    async def _head(self, connection: AsyncConnection) -> Link:
        query = select(heads.c.seq, heads.c.digest).where(heads.c.tenant == self._tenant)
        row = (await connection.execute(query)).first()
        return BEGINNING if row is None else Link(*row)


def _row(entry: AuditEntry) -> dict[str, Any]:
    change = entry.change
    return {
        "seq": entry.seq,
        "at": entry.at,
        "actor": change.actor,
        "action": change.action,
        "subject": change.subject,
        "request_id": change.request_id,
        "reason": change.reason,
        "before": _text(change.before),
        "after": _text(change.after),
        "previous": entry.previous,
        "digest": entry.digest,
    }


def _entry(row: Row) -> AuditEntry:
    told = {name: row[name] for name in ("actor", "action", "subject", "request_id", "reason")}
    change = Change(**told, before=_value(row["before"]), after=_value(row["after"]))
    return AuditEntry(seq=row["seq"], at=row["at"], change=change, previous=row["previous"], digest=row["digest"])


def _text(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, allow_nan=False)


def _value(text: str | None) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = None if text is None else json.loads(text)
    return found
