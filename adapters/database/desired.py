"""The port `DesiredModels` over the table `desired_models`."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from adapters.database.clock import Clock, now
from adapters.database.engine import Transactions, upsert
from adapters.database.tables import desired_models as table
from modelmora.ports import Desire, Wanted


class DesiredModelsTable:
    """One row a model version, of one tenant."""

    def __init__(self, transactions: Transactions, *, tenant: str = "default", clock: Clock | None = None) -> None:
        self._transactions = transactions
        self._tenant = tenant
        self._clock = clock

    async def set(self, name: str, version: str, wanted: Wanted) -> Desire:
        """See the port."""
        async with self._transactions.write() as connection:
            changed_at = await now(connection, self._clock)
            change = {"wanted": wanted, "changed_at": changed_at}
            row = {"tenant": self._tenant, "name": name, "version": version, "generation": 1}
            statement = (
                upsert(connection, table)
                .values(**row, **change)
                .on_conflict_do_update(
                    index_elements=table.primary_key.columns, set_={**change, "generation": table.c.generation + 1}
                )
                .returning(table.c.generation)
            )
            generation = (await connection.execute(statement)).scalar_one()
        return Desire(name=name, version=version, wanted=wanted, generation=generation)

    async def all(self) -> Sequence[Desire]:
        """See the port; by name, then version."""
        query = (
            select(table.c.name, table.c.version, table.c.wanted, table.c.generation)
            .where(table.c.tenant == self._tenant)
            .order_by(table.c.name, table.c.version)
        )
        async with self._transactions.read() as connection:
            return [Desire(**row) for row in (await connection.execute(query)).mappings()]
