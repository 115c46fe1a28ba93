"""Rows of ways: read and written, many at once."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.engine import upsert
from adapters.database.picture_rows import way_of, way_row
from adapters.database.picture_tables import ways as table
from modelmora.domain.pictures.way import Way

_CHANGING = [column.name for column in table.c if not column.primary_key]


async def ways_of(
    connection: AsyncConnection, ids: Iterable[str], *, tenant: str, lock: bool = False
) -> dict[str, tuple[Way, ...]]:
    """The ways of pictures by their ids, by space."""
    wanted = list(ids)
    if not wanted:
        return {}
    query = select(table).where(table.c.tenant == tenant, table.c.picture_id.in_(wanted))
    query = query.order_by(table.c.picture_id, table.c.space)
    found: dict[str, list[Way]] = {}
    for row in (await connection.execute(query.with_for_update() if lock else query)).mappings():
        found.setdefault(row["picture_id"], []).append(way_of(row))
    return {id_: tuple(of) for id_, of in found.items()}


async def write_ways(connection: AsyncConnection, ways: Iterable[Way], *, tenant: str) -> None:
    """As they are now, whether they were there or not."""
    rows = [{"tenant": tenant, **way_row(way)} for way in sorted(ways, key=lambda way: (way.picture_id, way.space))]
    if not rows:
        return
    statement = upsert(connection, table)
    given = {name: statement.excluded[name] for name in _CHANGING}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=table.primary_key.columns, set_=given), rows
    )
