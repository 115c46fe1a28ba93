"""What an index lacks is fetched, registered for it, embedded and put in, a page of pictures at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from modelmora.domain.inference import Call
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.pictures.picture import Picture
from modelmora.domain.pictures.spaces import Index
from modelmora.domain.pictures.way import ENDED, Way
from modelmora.errors import DependencyUnavailable, ModelMoraError
from modelmora.ids import new_id
from modelmora.ports import PictureFiles, PictureRecords, Registration, Vectors
from modelmora.usecases.admission import Limits
from modelmora.usecases.pictures.indexing import Going, Indexing, Verdicts

FETCHING = 8
"""Pictures that are fetched at once."""


class Filling:
    """Brings pictures into indexes, after everybody who waits for an answer."""

    def __init__(
        self,
        indexing: Indexing,
        *,
        vectors: Vectors,
        records: PictureRecords,
        files: PictureFiles,
        limits: Limits,
    ) -> None:
        self._indexing = indexing
        self._vectors = vectors
        self._records = records
        self._files = files
        self._limits = limits

    async def lacking(self, index: Index, pictures: Sequence[Picture]) -> list[Picture]:
        """Those that are not in the store, whatever the records say, or that the records say are not indexed."""
        if not pictures:
            return []
        ids = [picture.id for picture in pictures]
        there, ways = await self._vectors.vectors(index.space.name, ids), await self.ways(index, pictures)
        return [one for one in pictures if one.id not in there or not indexed(ways.get(one.id), one)]

    async def bring(self, index: Index, pictures: Sequence[Picture]) -> Verdicts:
        """What became of them; of those that somebody else has to do with nothing is said. Raises
        DependencyUnavailable where their bytes cannot be had now, before anything is claimed."""
        ways = await self.ways(index, pictures) if pictures else {}
        wanted = [one for one in pictures if one.id not in ways or ways[one.id].state != "rejected"]
        data = await self._fetched(wanted)
        asked = [Registration(picture=one, spaces=(index.space.key,)) for one in wanted]
        going = []
        for content, outcome in zip(data, await self._records.register(asked) if asked else [], strict=True):
            if isinstance(outcome, Failed) or outcome.value.picture.deleted_at is not None:
                continue
            picture, to_go = outcome.value.picture, outcome.value.ways
            if not to_go and indexed(ways.get(picture.id), picture):  # its vector was lost, not its record
                to_go = (replace(ways[picture.id], state="working"),)
            if to_go:
                going.append(Going(picture=picture, data=content, ways=to_go))
        if not going:
            return {}
        deadline = time.monotonic() + self._limits.timeout_ms / 1e3
        return await self._indexing(going, call=Call(request_id=new_id(), deadline=deadline, priority="bulk"))

    async def ways(self, index: Index, pictures: Sequence[Picture]) -> dict[str, Way]:
        """Their ways into this index."""
        found = await self._records.ways([one.id for one in pictures])
        return {id_: way for id_, ways in found.items() for way in ways if way.space == index.space.key}

    async def _fetched(self, pictures: Sequence[Picture]) -> list[Outcome[bytes]]:
        room = asyncio.Semaphore(FETCHING)

        async def one(picture: Picture) -> Outcome[bytes]:
            async with room:
                try:
                    return Ok(await self._files.get(picture.object, max_bytes=self._limits.image_bytes))
                except DependencyUnavailable:
                    raise
                except ModelMoraError as error:
                    return Failed(error)

        return list(await asyncio.gather(*map(one, pictures)))


def indexed(way: Way | None, picture: Picture) -> bool:
    """Whether the records say that the picture as it is now is in the index."""
    return way is not None and way.state == "indexed" and way.seq == picture.seq


def ended(way: Way | None) -> bool:
    """Whether nobody goes it any more."""
    return way is not None and way.state in ENDED
