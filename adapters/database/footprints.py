"""The port `Footprints` over the table `footprints`."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from adapters.database.clock import Clock, now
from adapters.database.engine import Transactions, upsert
from adapters.database.tables import footprints as table
from modelmora.ports import Footprint


class FootprintsTable:
    """One row a model version, device and precision, of one tenant."""

    def __init__(self, transactions: Transactions, *, tenant: str = "default", clock: Clock | None = None) -> None:
        self._transactions = transactions
        self._tenant = tenant
        self._clock = clock

    async def remember(self, footprint: Footprint) -> None:
        """See the port."""
        async with self._transactions.write() as connection:
            measure = {"bytes": footprint.bytes, "measured_at": await now(connection, self._clock)}
            statement = upsert(connection, table).values(
                tenant=self._tenant,
                model=footprint.model,
                device=footprint.device,
                precision=footprint.precision,
                **measure,
            )
            await connection.execute(
                statement.on_conflict_do_update(index_elements=table.primary_key.columns, set_=measure)
            )

    async def all(self) -> Sequence[Footprint]:
        """See the port; by model, device and precision."""
        query = (
            select(table.c.model, table.c.device, table.c.precision, table.c.bytes)
            .where(table.c.tenant == self._tenant)
            .order_by(table.c.model, table.c.device, table.c.precision)
        )
        async with self._transactions.read() as connection:
            return [Footprint(**row) for row in (await connection.execute(query)).mappings()]
