"""The port `DeadLetters`: what was given up, why, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping, delete, func, insert, select, tuple_, update

from adapters.database.announcing import Announcing
from adapters.database.clock import Clock, now
from adapters.database.engine import Transactions, upsert
from adapters.database.finishing import letter_message
from adapters.database.paging import Keyset
from adapters.database.picture_rows import headers_of, headers_text
from adapters.database.picture_tables import dead_letters as table
from adapters.database.picture_tables import outbox, ways
from modelmora.domain.registry.pages import Page, Paging
from modelmora.errors import ImageNotFound
from modelmora.ports import DeadLetter
from modelmora.ports.pictures import NEWEST_FIRST

_PLAIN = (
    "id",
    "topic",
    "key",
    "value",
    "picture_id",
    "space",
    "code",
    "detail",
    "stage",
    "attempts",
    "first_failed_at",
    "failed_at",
    "replayed_at",
)


class DeadLettersTable:
    """Letters of one tenant; `topic` is where events about pictures go."""

    def __init__(
        self, transactions: Transactions, *, topic: str, tenant: str = "default", clock: Clock | None = None
    ) -> None:
        self._transactions = transactions
        self._topic = topic
        self._tenant = tenant
        self._clock = clock

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """See the port."""
        if not letters:
            return
        rows = {letter.id: self._row(letter) for letter in letters}
        async with self._transactions.write() as connection:
            time = await now(connection, self._clock)
            statement = upsert(connection, table).values(list(rows.values())).on_conflict_do_nothing()
            added = (await connection.execute(statement.returning(table.c.id))).scalars().all()
            if added:
                await connection.execute(insert(outbox), [letter_message(rows[id_], time) for id_ in added])

    async def get(self, id_: str) -> DeadLetter:
        """See the port."""
        async with self._transactions.read() as connection:
            query = select(table).where(table.c.tenant == self._tenant, table.c.id == id_)
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise ImageNotFound(f"there is no dead letter {id_}", field="id", found=id_[:80])
        return _letter(row)

    async def find(self, *, code: str | None = None, page: Paging = NEWEST_FIRST) -> Page[DeadLetter]:
        """See the port."""
        query = select(table).where(table.c.tenant == self._tenant)
        if code is not None:
            query = query.where(table.c.code == code)
        order = Keyset(table.c.failed_at, table.c.id, large=(table.c.value,))
        async with self._transactions.read() as connection:
            rows, cursor = await order.rows(connection, query, page)
        return Page(tuple(map(_letter, rows)), cursor)

    async def replay(self, ids: Sequence[str], *, source: str) -> int:
        """See the port."""
        async with self._transactions.write() as connection:
            time = await now(connection, self._clock)
            mine = (table.c.tenant == self._tenant) & table.c.id.in_(ids)
            rows = (await connection.execute(select(table).where(mine).with_for_update())).mappings().all()
            pictures = {(row["picture_id"], row["space"]) for row in rows if row["picture_id"]}
            if pictures:
                again = tuple_(ways.c.picture_id, ways.c.space).in_(pictures) & (ways.c.tenant == self._tenant)
                given_up = again & ways.c.state.in_(("rejected", "dead"))
                anew = {"state": "received", "attempts": 0, "first_failed_at": None, "changed_at": time}
                await connection.execute(update(ways).where(given_up).values(**anew))
                announcing = Announcing(connection, tenant=self._tenant, time=time, topic=self._topic)
                await announcing.announce(sorted({id_ for id_, _ in pictures}), source=source)
            as_they_came = [self._message(row, time) for row in rows if not row["picture_id"]]
            if as_they_came:
                await connection.execute(insert(outbox), as_they_came)
            await connection.execute(update(table).where(mine).values(replayed_at=time))
        return len(rows)

    async def remove(self, ids: Sequence[str]) -> int:
        """See the port."""
        async with self._transactions.write() as connection:
            gone = await connection.execute(delete(table).where(table.c.tenant == self._tenant, table.c.id.in_(ids)))
        return int(gone.rowcount)

    async def count(self) -> int:
        """See the port."""
        query = select(func.count()).select_from(table).where(table.c.tenant == self._tenant)
        async with self._transactions.read() as connection:
            return int((await connection.execute(query.where(table.c.replayed_at.is_(None)))).scalar_one())

    def _row(self, letter: DeadLetter) -> dict[str, Any]:
        told = {name: getattr(letter, name) for name in _PLAIN}
        return {**told, "tenant": self._tenant, "headers": headers_text(letter.headers)}

    def _message(self, row: RowMapping, time: Any) -> dict[str, Any]:
        told = {name: row[name] for name in ("tenant", "topic", "key", "value", "headers")}
        return {**told, "picture_id": None, "not_before": time}


def _letter(row: RowMapping) -> DeadLetter:
    return DeadLetter(**{name: row[name] for name in _PLAIN}, headers=headers_of(row["headers"]))
