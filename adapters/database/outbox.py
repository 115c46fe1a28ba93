"""The port `Outbox`: events that wait to be carried."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, exists, func, insert, select

from adapters.database.clock import Clock, now
from adapters.database.engine import Transactions
from adapters.database.picture_rows import event_row, headers_of
from adapters.database.picture_tables import outbox as table
from modelmora.domain.events.envelope import Event
from modelmora.ports import Kept


class OutboxTable:
    """Of all tenants: whoever relays carries everybody's."""

    def __init__(self, transactions: Transactions, *, clock: Clock | None = None) -> None:
        self._transactions = transactions
        self._clock = clock

    async def add(self, events: Sequence[Event]) -> None:
        """See the port."""
        if not events:
            return
        async with self._transactions.write() as connection:
            time = await now(connection, self._clock)
            await connection.execute(insert(table), [event_row(event, not_before=time) for event in events])

    async def due(self, *, limit: int) -> tuple[Kept, ...]:
        """See the port."""
        earlier = table.alias()
        async with self._transactions.read() as connection:
            time = await now(connection, self._clock)
            before = select(earlier.c.number).where(
                earlier.c.lane == table.c.lane,
                earlier.c.number < table.c.number,
                earlier.c.not_before > time,
            )
            query = select(table).where(table.c.not_before <= time, ~exists(before)).order_by(table.c.number)
            rows = (await connection.execute(query.limit(limit))).mappings()
            return tuple(
                Kept(
                    number=row["number"],
                    topic=row["topic"],
                    key=row["key"],
                    value=row["value"],
                    headers=headers_of(row["headers"]),
                )
                for row in rows
            )

    async def carried(self, numbers: Sequence[int]) -> None:
        """See the port."""
        if numbers:
            async with self._transactions.write() as connection:
                await connection.execute(delete(table).where(table.c.number.in_(numbers)))

    async def waiting(self) -> int:
        """See the port."""
        async with self._transactions.read() as connection:
            return int((await connection.execute(select(func.count()).select_from(table))).scalar_one())
