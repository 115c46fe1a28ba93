"""Pages by the last row seen: each costs the same, however far it is, and none skips what was added meanwhile."""

from __future__ import annotations

import base64
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, TypeAlias

from sqlalchemy import Column, RowMapping, Select, func, literal, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.tables import Utc
from modelmora.domain.registry.pages import Paging
from modelmora.domain.registry.texts import check_text
from modelmora.errors import ValidationFailed

Row: TypeAlias = RowMapping
LONGEST_CURSOR = 4_096
MOST_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Keyset:
    """Rows in the order of a column; where several share a value the `tie` column decides.

    `large` are the columns that may have many bytes: a page ends before it has more than `MOST_BYTES` of them, but has
    one row at least.
    """

    by: Column[Any]
    tie: Column[Any]
    large: Sequence[Column[Any]] = ()

    async def rows(
        self, connection: AsyncConnection, query: Select[Any], paging: Paging
    ) -> tuple[Sequence[Row], str | None]:
        """A page of the query's rows, which have both columns, and the cursor of the next.

        Raises ValidationFailed for a cursor of another order.
        """
        if paging.cursor is not None:
            value, tie = self._seen(paging)
            place, seen = tuple_(self.by, self.tie), tuple_(literal(value, self.by.type), literal(tie, self.tie.type))
            query = query.where(place < seen if paging.descending else place > seen)
        query = query.order_by(*(column.desc() if paging.descending else column for column in (self.by, self.tie)))
        if self.large:
            fitting, more = await self._fitting(connection, query, paging.limit)
            rows = (await connection.execute(query.limit(fitting))).mappings().all()
        else:
            found = (await connection.execute(query.limit(paging.limit + 1))).mappings().all()
            rows, more = found[: paging.limit], len(found) > paging.limit
        return rows, self._cursor(rows[-1], paging) if more else None

    async def _fitting(self, connection: AsyncConnection, query: Select[Any], limit: int) -> tuple[int, bool]:
        """How many rows a page has room for, and whether there are more; the rows themselves stay where they are."""
        length = func.octet_length if connection.dialect.name == "postgresql" else func.length
        size = sum((func.coalesce(length(column), 0) for column in self.large), start=literal(0))
        sizes = (await connection.execute(query.with_only_columns(size).limit(limit + 1))).scalars().all()
        reached = list(accumulate(sizes[:limit]))
        fitting = max(bisect_right(reached, MOST_BYTES), min(1, len(reached)))
        return fitting, fitting < len(sizes)

    def _cursor(self, row: Row, paging: Paging) -> str:
        value, tie = row[self.by.name], row[self.tie.name]
        told = value.isoformat() if isinstance(value, datetime) else value
        text = json.dumps([self.by.name, paging.descending, told, tie])
        return base64.urlsafe_b64encode(text.encode()).decode()

    def _seen(self, paging: Paging) -> tuple[Any, Any]:
        try:
            cursor = paging.cursor or ""
            if len(cursor) > LONGEST_CURSOR:
                raise ValueError("longer than any")
            name, descending, value, tie = json.loads(base64.urlsafe_b64decode(cursor))
            if (name, descending) != (self.by.name, paging.descending):
                raise ValueError("of another order")
            return _of(self.by, value), _of(self.tie, tie)
        except (ValueError, TypeError, OverflowError, RecursionError, ValidationFailed) as cause:
            said = "not a cursor of this list in this order"
            found = (paging.cursor or "")[:80]
            raise ValidationFailed(
                said, field="cursor", found=found, expected="next_cursor of the page before"
            ) from cause


def _of(column: Column[Any], value: Any) -> Any:
    """The value as the column takes it; raises TypeError, ValueError, OverflowError, ValidationFailed."""
    if isinstance(column.type, Utc):
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("a moment without a time zone")
        return moment.astimezone(UTC)
    if type(value) is not column.type.python_type:
        raise TypeError(f"{column.name} is {type(value).__name__}")
    if isinstance(value, str):
        check_text(value, field=column.name)
    elif not -(2**63) <= value < 2**63:
        raise OverflowError(f"{column.name} is out of range")
    return value
