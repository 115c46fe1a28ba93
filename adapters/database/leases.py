"""The port `Leases` over the table `leases`."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import case, or_, update

from adapters.database.clock import Clock, now
from adapters.database.engine import Transactions, upsert
from adapters.database.tables import leases as table

TTL_S = 10.0
"""How long a lease lasts unless it is renewed, which its holder does every `RENEW_S`."""
RENEW_S = 3.0


class LeasesTable:
    """One row a lease, never deleted: it keeps the fence. Times are those of the database's clock."""

    def __init__(self, transactions: Transactions, *, tenant: str = "default", clock: Clock | None = None) -> None:
        self._transactions = transactions
        self._tenant = tenant
        self._clock = clock

    async def acquire(self, name: str, holder: str, *, ttl_s: float = TTL_S) -> int | None:
        """See the port. One statement decides, so of many callers at once exactly one gets it."""
        async with self._transactions.write() as connection:
            # Read before the row is locked: a caller who had to wait for it sees the time as too early, never too late.
            time = await now(connection, self._clock)
            taken = {"holder": holder, "expires_at": time + timedelta(seconds=ttl_s)}
            mine = table.c.holder == holder
            statement = (
                upsert(connection, table)
                .values(tenant=self._tenant, name=name, fence=1, **taken)
                .on_conflict_do_update(
                    index_elements=table.primary_key.columns,
                    set_={**taken, "fence": case((mine, table.c.fence), else_=table.c.fence + 1)},
                    where=or_(mine, table.c.holder.is_(None), table.c.expires_at <= time),
                )
                .returning(table.c.fence)
            )
            fence: int | None = (await connection.execute(statement)).scalar_one_or_none()
        return fence

    async def release(self, name: str, holder: str) -> None:
        """See the port."""
        mine = (table.c.tenant == self._tenant) & (table.c.name == name) & (table.c.holder == holder)
        async with self._transactions.write() as connection:
            await connection.execute(update(table).where(mine).values(holder=None))
