"""What time it is, by the clock that all users of one database share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

Clock: TypeAlias = Callable[[], datetime]


async def now(connection: AsyncConnection, clock: Clock | None) -> datetime:
    """`clock`'s time, else the server's own; SQLite's users share one machine and thus its clock."""
    if clock is not None:
        return clock()
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    time: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return time
