"""A picture is removed: its record at once, its vectors and bytes with it or as soon as their stores are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from modelmora.domain.events.data import ImageRemoved
from modelmora.domain.pictures.picture import Picture
from modelmora.errors import ImageNotFound, ModelMoraError, ValidationFailed
from modelmora.ports import Indexes, PictureFiles, PictureQuery, PictureRecords, Vectors

log = structlog.get_logger(__name__)

PAGE = 100


class Remove:
    """Everywhere: record, ways, events that wait, dead letters, vectors, bytes, thumbnail."""

    def __init__(
        self,
        records: PictureRecords,
        indexes: Indexes,
        *,
        vectors: Vectors,
        files: PictureFiles,
        source: str,
        nudge: Callable[[], None] = lambda: None,
    ) -> None:
        self._records = records
        self._indexes = indexes
        self._vectors = vectors
        self._files = files
        self._source = source
        self._nudge = nudge

    async def __call__(self, ids: Sequence[str]) -> int:
        """How many there were; the others were gone already. Raises DependencyUnavailable where no record can be
        changed; a store that is away is cleaned when the event of the removal is taken in."""
        gone = await self._records.remove(ids, source=self._source)
        self._nudge()
        try:
            for collection in {picture.collection for picture in gone}:
                await self._unindex(collection, [one.id for one in gone if one.collection == collection])
            for picture in gone:
                await self._forget(picture.sha256)
        except ModelMoraError as error:
            log.warning("removal_unfinished", pictures=len(gone), code=error.code, why=error.detail)
        return len(gone)

    async def one(self, id_: str) -> None:
        """Raises ImageNotFound."""
        if not await self([id_]):
            raise ImageNotFound(f"there is no picture {id_}", field="id", found=id_[:80])

    async def where(self, query: PictureQuery) -> int:
        """All that the query finds, a page at a time. Raises ValidationFailed where it asks for what was removed."""
        if query.state == "deleted":
            expected = "a state of pictures that are there"
            raise ValidationFailed("they were removed already", field="state", found="deleted", expected=expected)
        count = 0
        while found := (await self._records.find(query)).items:
            count += await self([picture.id for picture in found])
        return count

    async def expired(self) -> int:
        """Pictures whose time is over; a page of them."""
        found: Sequence[Picture] = await self._records.expired(limit=PAGE)
        return await self([picture.id for picture in found]) if found else 0

    async def again(self, told: ImageRemoved) -> None:
        """What an event tells: vectors and bytes go, where the picture was removed. Raises DependencyUnavailable."""
        try:
            picture = await self._records.get(told.image_id, deleted=True)
        except ImageNotFound:  # a producer who is not us: there is nothing to remove
            return
        if picture.deleted_at is None:
            await self([picture.id])
            return
        await self._unindex(picture.collection, [picture.id])
        await self._forget(picture.sha256)

    async def _unindex(self, collection: str, ids: Sequence[str]) -> None:
        for index in await self._indexes.all(collection=collection):
            await self._vectors.delete(index.space.name, ids)

    async def _forget(self, sha256: str) -> None:
        if not await self._records.used(sha256):
            await self._files.remove(sha256)
