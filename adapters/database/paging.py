"""Pages by the last row seen: each costs the same, however far it is, and none skips what was added meanwhile."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from sqlalchemy import Column, RowMapping, Select, literal, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.database.tables import Utc
from modelmora.domain.registry.pages import Paging
from modelmora.domain.registry.texts import check_text
from modelmora.errors import ValidationFailed

Row: TypeAlias = RowMapping
LONGEST_CURSOR = 4_096


@dataclass(frozen=True, slots=True)
class Keyset:
    """Rows in the order of a column; where several share a value the `tie` column decides."""

    by: Column[Any]
    tie: Column[Any]

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
        ordered = (self.by.desc(), self.tie.desc()) if paging.descending else (self.by, self.tie)
        found = (await connection.execute(query.order_by(*ordered).limit(paging.limit + 1))).mappings().all()
        rows = found[: paging.limit]
        return rows, self._cursor(rows[-1], paging) if len(found) > paging.limit else None

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
