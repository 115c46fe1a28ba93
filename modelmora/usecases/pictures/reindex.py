"""Indexes are filled in the background, compared with those they follow, and searched once nothing is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from modelmora.domain.pictures.search import Question
from modelmora.domain.pictures.spaces import Index, IndexState
from modelmora.domain.pictures.way import Way
from modelmora.domain.registry.pages import Paging
from modelmora.errors import ModelMoraError, NotFound
from modelmora.ports import Indexes, Leases, PictureQuery, PictureRecords, Vectors
from modelmora.usecases.admission import Limits
from modelmora.usecases.embed import Embed
from modelmora.usecases.pictures.filling import Filling, ended
from modelmora.usecases.pictures.indexes import AT_END, SWITCHES, IndexBook
from modelmora.usecases.pictures.indexing import Verdicts

log = structlog.get_logger(__name__)

LEASE, LEASE_S, PERIOD_S = "reindex", 30.0, 1.0
PAGE = 32
"""Pictures that are looked through together."""
SETTLE = timedelta(seconds=3)
"""After so long every process knows of an index, and brings new pictures into it."""
KEEP = timedelta(hours=1)
"""So long is an index kept that searches went to before: the way back."""
SAMPLE, NEIGHBOURS = 64, 10
"""Pictures that two indexes are compared by, and how many of the next of each."""


class Reindex:
    """One process at a time does it, under a lease; that another did the same as well would cost time only."""

    def __init__(
        self,
        book: IndexBook,
        filling: Filling,
        embed: Embed,
        *,
        indexes: Indexes,
        vectors: Vectors,
        records: PictureRecords,
        leases: Leases,
        holder: str,
        limits: Limits,
        clock: Callable[[], datetime],
    ) -> None:
        self._book = book
        self._filling = filling
        self._embed = embed
        self._indexes = indexes
        self._vectors = vectors
        self._records = records
        self._leases = leases
        self._holder = holder
        self._page = min(PAGE, limits.items)
        self._clock = clock
        self._aliases_seen = False

    async def run(self) -> None:
        """Until it is cancelled; trouble is for the next round."""
        while True:
            busy = False
            self._book.begun.clear()
            try:
                if await self._leases.acquire(LEASE, self._holder, ttl_s=LEASE_S) is not None:
                    busy = await self.round()
            except ModelMoraError as error:
                log.warning("reindex_waits", code=error.code, why=error.detail)
            except Exception:
                log.exception("reindex_failed")
            if not busy:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._book.begun.wait(), PERIOD_S)

    async def round(self) -> bool:
        """One step of every index that has one to take; whether another round should follow at once."""
        indexes = await self._indexes.all()
        if not self._aliases_seen:
            await self._see_to_aliases(indexes)
            self._aliases_seen = True
        return any([await self._step(index) for index in indexes])

    async def _step(self, index: Index) -> bool:
        match index.state:
            case "building":
                return await self._fill(index)
            case "live" if index.cursor is not None:
                return await self._fill(index)
            case "verifying":
                return await self._verify(index)
            case "ready" if index.why == SWITCHES:
                await self._book.made_live(index)
                return True
            case "draining" if self._clock() - index.changed_at >= KEEP:
                await self._book.dropped(index)
            case "dropped":
                await self._book.dropped(index)
        return False

    async def _fill(self, index: Index) -> bool:
        """A page of it; raises what keeps all of them back, and then the page is gone through again."""
        try:
            self._embed.serving(index.space.key)
        except NotFound as error:
            return await self._given_up(index, error.detail)
        if index.cursor == AT_END:
            return await self._close(index)
        paging = Paging(limit=self._page, cursor=index.cursor or None)
        page = await self._records.find(PictureQuery(collection=index.space.collection, page=paging))
        verdicts = await self._filling.bring(index, await self._filling.lacking(index, page.items))
        broken = _broken(verdicts)
        if broken is not None:
            return await self._given_up(index, broken)
        if verdicts and all(verdict.state == "retry_wait" for verdict in verdicts.values()):
            return False  # something is away: the same page again, when it may be back
        return await self._reached(index, cursor=page.next_cursor or AT_END)

    async def _close(self, index: Index) -> bool:
        """All pictures have been gone through: what is missing by the records is brought, or waited for.

        Pictures that came after the index are on the usual way into it; of older ones none may be under way.
        """
        failed, waiting, brought = 0, 0, False
        after: str | None = None
        while page := await self._records.missing(
            index.space.key, collection=index.space.collection, after=after, limit=self._page
        ):
            ways = await self._filling.ways(index, page)
            new = [one for one in page if one.id not in ways or _due(ways[one.id], self._clock())]
            brought = bool(await self._filling.bring(index, new)) or brought
            older = [ways[one.id] for one in page if one.id in ways and one.created_at <= index.created_at]
            waiting += sum(1 for way in older if not ended(way))
            failed += sum(1 for one in page if ended(ways.get(one.id)))
            after = page[-1].id
        if brought or not self._settled(index) or (waiting and index.state == "building"):
            return brought
        if index.state == "live":
            await self._reached(index, cursor=None, failed=failed)
            return False
        return await self._reached(replace(index, state="verifying"), cursor=AT_END, failed=failed, from_="building")

    def _settled(self, index: Index) -> bool:
        """Whether every process has heard of it, or of its being searched."""
        since = index.changed_at if index.state == "live" else index.created_at
        return self._clock() - since >= SETTLE

    async def _verify(self, index: Index) -> bool:
        """How alike it is to what it follows: the same questions to both."""
        space = index.space
        lives = [
            one
            for one in await self._indexes.all(collection=space.collection)
            if one.state == "live" and one.space.model == space.model
        ]
        agreement = await self._agreement(lives[0], index) if lives else None
        log.info("index_compared", space=space.key, collection=space.collection, agreement=agreement)
        return await self._indexes.change(replace(index, agreement=agreement, state="ready"), from_={"verifying"})

    async def _agreement(self, old: Index, new: Index) -> float | None:
        """The mean overlap of the nearest of pictures that both have, each by its own vector; None where none is."""
        before, after = old.space.name, new.space.name
        ids, _ = await self._vectors.ids(after, after=None, limit=SAMPLE)
        theirs, ours = await self._vectors.vectors(before, ids), await self._vectors.vectors(after, ids)
        overlaps = []
        for id_ in (one for one in ids if one in theirs and one in ours):
            near = await self._near(before, id_, theirs[id_])
            mine = await self._near(after, id_, ours[id_])
            most = max(len(near), len(mine))
            overlaps.append(len(near & mine) / most if most else 1.0)
        return sum(overlaps) / len(overlaps) if overlaps else None

    async def _near(self, name: str, id_: str, vector: bytes) -> frozenset[str]:
        hits = await self._vectors.search(name, Question(vector=vector, limit=NEIGHBOURS, exclude=(id_,)))
        return frozenset(hit.id for hit in hits)

    async def _reached(
        self, index: Index, *, cursor: str | None, failed: int | None = None, from_: IndexState | None = None
    ) -> bool:
        """Writes down how far it is; whether it is still there, in the same state or in `from_`."""
        now = replace(
            index,
            cursor=cursor,
            total=await self._records.count(collection=index.space.collection),
            done=await self._vectors.count(index.space.name),
            failed=index.failed if failed is None else failed,
        )
        return await self._indexes.change(now, from_={from_ or index.state})

    async def _given_up(self, index: Index, why: str) -> bool:
        """A live one stays what it is, and is not gone through any further."""
        log.warning("reindex_given_up", space=index.space.key, collection=index.space.collection, why=why)
        gone = replace(index, cursor=None, why=why)
        await self._indexes.change(
            gone if index.state == "live" else replace(gone, state="failed"), from_={index.state}
        )
        return False

    async def _see_to_aliases(self, indexes: Sequence[Index]) -> None:
        """An alias that a switch was killed before."""
        standing, names = await self._vectors.standing(), set(await self._vectors.names())
        for index in indexes:
            space = index.space
            if index.state == "live" and space.name in names and standing.get(space.alias) != space.name:
                await self._vectors.switch(space.alias, space.name)


def _broken(verdicts: Verdicts) -> str | None:
    """Why no picture will ever be embedded; None where some may be."""
    told = list(verdicts.values())
    lasting = told and all(verdict.code == "model_load_failed" for verdict in told)
    return told[0].detail if lasting else None


def _due(way: Way, now: datetime) -> bool:
    return way.state == "retry_wait" and (way.next_attempt_at is None or way.next_attempt_at <= now)
