"""The port `IdempotencyKeys` over the table `idempotency`."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.clock import Clock, now
from adapters.database.engine import Transactions, upsert
from adapters.database.paging import Row
from adapters.database.tables import idempotency as table
from modelmora.errors import Conflict, ValidationFailed
from modelmora.ports import Answer

KEPT_S = 24 * 3600.0
STRIDE = 100


class IdempotencyTable:
    """A row a key, of one tenant; what is older than a day goes when somebody else comes."""

    def __init__(self, transactions: Transactions, *, tenant: str = "default", clock: Clock | None = None) -> None:
        self._transactions = transactions
        self._tenant = tenant
        self._clock = clock

    async def begin(self, key: str, *, holder: str, route: str, digest: str, ttl_s: float) -> Answer | None:
        """See the port. Who inserts the row answers; who finds it there locks it and looks."""
        async with self._transactions.write() as connection:
            time = await now(connection, self._clock)
            await self._sweep(connection, before=time - timedelta(seconds=KEPT_S))
            request = {"tenant": self._tenant, "key": key, "route": route, "digest": digest, "created_at": time}
            mine = {"holder": holder, "expires_at": time + timedelta(seconds=ttl_s)}
            made = upsert(connection, table).values(**request, **mine, done=False).on_conflict_do_nothing()
            if (await connection.execute(made.returning(table.c.key))).scalar_one_or_none() is not None:
                return None
            row = await self._locked(connection, key)
            if row is not None:
                _refuse_other(row, route=route, digest=digest)
            if row is not None and row["done"]:
                return _answer(row)
            if row is None or row["expires_at"] > time:  # None: whoever had it gave it up this moment
                said = "a request with this idempotency key is still being answered; ask again"
                raise Conflict(said, field="idempotency-key", found=key[:80], retry_after_s=1.0)
            await connection.execute(update(table).where(self._of(key)).values(**mine))
        return None

    async def renew(self, key: str, *, holder: str, ttl_s: float) -> None:
        """See the port."""
        async with self._transactions.write() as connection:
            until = await now(connection, self._clock) + timedelta(seconds=ttl_s)
            await connection.execute(update(table).where(self._held(key, holder)).values(expires_at=until))

    async def keep(self, key: str, *, holder: str, answer: Answer) -> None:
        """See the port."""
        response = json.dumps({"body": answer.body, "headers": dict(answer.headers)})
        async with self._transactions.write() as connection:
            done = {"done": True, "status": answer.status, "response": response}
            await connection.execute(update(table).where(self._held(key, holder)).values(**done))

    async def forget(self, key: str, *, holder: str) -> None:
        """See the port."""
        async with self._transactions.write() as connection:
            await connection.execute(delete(table).where(self._held(key, holder)))

    async def _sweep(self, connection: AsyncConnection, *, before: datetime) -> None:
        """Some of what is old; rows that another sweeps at this moment are his."""
        old = select(table.c.key).where(table.c.tenant == self._tenant, table.c.created_at <= before)
        some = old.limit(STRIDE).with_for_update(skip_locked=True)
        await connection.execute(delete(table).where(table.c.tenant == self._tenant, table.c.key.in_(some)))

    async def _locked(self, connection: AsyncConnection, key: str) -> Row | None:
        query = select(table).where(self._of(key)).with_for_update()
        return (await connection.execute(query)).mappings().one_or_none()

    def _of(self, key: str) -> ColumnElement[bool]:
        return (table.c.tenant == self._tenant) & (table.c.key == key)

    def _held(self, key: str, holder: str) -> ColumnElement[bool]:
        return self._of(key) & (table.c.holder == holder) & table.c.done.is_(False)


def _refuse_other(row: Row, *, route: str, digest: str) -> None:
    """Raises ValidationFailed where the key came with another request."""
    for name, found in (("route", route), ("digest", digest)):
        if row[name] != found:
            other = "body" if name == "digest" else name
            said = f"this idempotency key came with another {other} before; take another key"
            raise ValidationFailed(said, field="idempotency-key", found=found[:80], expected=row[name][:80])


def _answer(row: Row) -> Answer:
    told: dict[str, Any] = json.loads(row["response"])
    return Answer(status=row["status"], body=told["body"], headers=told["headers"])
