"""Indexes as they are looked at, begun anew, switched and let go of; `Reindex` fills them in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog

from modelmora.domain.models import ModelRef, ModelSpec
from modelmora.domain.pictures.picture import checked_collection
from modelmora.domain.pictures.spaces import Index, IndexState, Space
from modelmora.errors import ModelMoraError, ModelNotFound, ValidationFailed, WrongState
from modelmora.ports import Describer, Indexes, PictureRecords, Vectors
from modelmora.usecases.embed import Embed
from modelmora.usecases.pictures.spaces import Spaces

log = structlog.get_logger(__name__)

SWITCHES, WAITS = "is switched to once it is complete", "waits for its switch"
"""Said of an index that is being built: which of both was asked for."""
FROM_START, AT_END = "", "*"
"""Cursors of an index that is gone through: from the first picture on, or for what its records say that it lacks."""
SWITCHABLE: frozenset[IndexState] = frozenset({"ready", "draining", "live"})
GONE: frozenset[IndexState] = frozenset({"dropped", "failed"})


class IndexBook:
    """What a door may do with indexes."""

    def __init__(
        self,
        indexes: Indexes,
        vectors: Vectors,
        spaces: Spaces,
        *,
        records: PictureRecords,
        embed: Embed,
        describer: Describer,
        clock: Callable[[], datetime],
    ) -> None:
        self.begun = asyncio.Event()
        """Set where there is something to fill: whoever fills here need not wait for his next round."""
        self._indexes = indexes
        self._vectors = vectors
        self._spaces = spaces
        self._records = records
        self._embed = embed
        self._describer = describer
        self._clock = clock

    async def all(self, *, collection: str | None = None) -> tuple[Index, ...]:
        """Each with how many pictures are in it now."""
        return tuple([await self._counted(index) for index in await self._indexes.all(collection=collection)])

    async def get(self, ref: str, *, collection: str) -> Index:
        """The index of `name@version`; raises ModelNotFound, ValidationFailed."""
        wanted = ModelRef.parse(ref)
        if wanted.version is None:
            raise ValidationFailed("an index is one version's", field="model", found=ref[:80], expected="name@version")
        for index in await self._indexes.all(collection=checked_collection(collection)):
            if index.space.key == str(wanted):
                return await self._counted(index)
        raise ModelNotFound(f"{ref} has no index of the collection {collection}", field="model", found=ref[:80])

    async def begin(self, model: str, *, version: str | None, collection: str, switch: bool, deadline: float) -> Index:
        """An index of the version (None: the current one) that is filled from now on and searched when it is complete;
        one that is there is gone through again for what it lacks.

        With `switch` searches go to it as soon as it is complete. From now on new pictures are in it as well. Raises
        ModelNotFound, VersionNotFound, CapabilityMissing, ValidationFailed, and what describing raises.
        """
        ref = ModelRef.parse(f"{model}@{version}" if version else model)
        spec = self._embed.serving(str(ref))
        space = Space(model=spec.name, version=spec.version, collection=checked_collection(collection))
        standing = {index.space.key: index for index in await self._indexes.all(collection=collection)}
        index = standing.get(space.key)
        if index is None or index.state in GONE:
            await self._indexes.remove(space)
            index = await self._made(space, spec, switch=switch, deadline=deadline)
        else:
            index = await self._again(index, switch=switch)
        log.info("reindex_begun", space=space.key, collection=collection, state=index.state)
        await self._spaces.refreshed(collection, space.model)
        self.begun.set()
        return index

    async def switch(self, ref: str, *, collection: str) -> Index:
        """Searches go to it from now on; what they went to before is kept for an hour, for the way back.

        Raises WrongState for one that is not complete.
        """
        index = await self.get(ref, collection=collection)
        if index.state not in SWITCHABLE:
            expected = ", ".join(sorted(SWITCHABLE))
            said = f"the index of {ref} is {index.state}; searches go to complete ones only"
            raise WrongState(said, field="state", found=index.state, expected=expected)
        return await self.made_live(index)

    async def made_live(self, index: Index) -> Index:
        """The row first, which searches read; then the alias, for those who look at the store themselves. What was
        brought while it was not filled, or is brought by who has not heard of it yet, is put in afterwards."""
        await self._indexes.switch(index.space)
        await self._spaces.refreshed(index.space.collection, index.space.model)
        await self._vectors.switch(index.space.alias, index.space.name)
        live = replace(index, state="live", cursor=AT_END, why="", changed_at=self._clock())
        await self._indexes.change(live, from_={"live"})
        log.info("index_switched", space=index.space.key, collection=index.space.collection)
        self.begun.set()
        return live

    async def drop(self, ref: str, *, collection: str) -> None:
        """Raises WrongState for the one that searches go to."""
        index = await self.get(ref, collection=collection)
        if index.state == "live":
            said = f"searches go to the index of {ref}; switch to another one first"
            raise WrongState(said, field="state", found="live", expected="any other")
        await self.dropped(index)

    async def dropped(self, index: Index) -> None:
        """Nobody writes to it once its state says so; then its vectors go, then its row."""
        gone = replace(index, state="dropped", changed_at=self._clock())
        if await self._indexes.change(gone, from_={index.state, "dropped"}):
            await self._spaces.refreshed(index.space.collection, index.space.model)
            await self._vectors.drop(index.space.name)
            await self._indexes.remove(index.space)
            log.info("index_dropped", space=index.space.key, collection=index.space.collection)

    async def _counted(self, index: Index) -> Index:
        """As its row says where the store cannot be asked."""
        try:
            done = await self._vectors.count(index.space.name)
        except ModelMoraError:
            return index
        return replace(index, done=done, total=await self._records.count(collection=index.space.collection))

    async def _made(self, space: Space, spec: ModelSpec, *, switch: bool, deadline: float) -> Index:
        """The store's part first: who reads the row writes there."""
        description = await self._describer.describe(spec, deadline=deadline)
        settings = self._spaces.settings_of(space)
        await self._vectors.create(space.name, dimension=description.dimension, settings=settings)
        now = self._clock()
        index = Index(
            space=space,
            state="building",
            dimension=description.dimension,
            settings=settings,
            total=await self._records.count(collection=space.collection),
            why=SWITCHES if switch else WAITS,
            created_at=now,
            changed_at=now,
        )
        return await self._indexes.add(index)

    async def _again(self, index: Index, *, switch: bool) -> Index:
        """Of a live one from the start, while it is searched; others go on, or begin anew."""
        now = self._clock()
        if index.state == "live":
            again = replace(index, cursor=FROM_START, changed_at=now)
        else:
            again = replace(
                index, state="building", cursor=None, why=SWITCHES if switch else WAITS, agreement=None, changed_at=now
            )
        await self._vectors.create(index.space.name, dimension=index.dimension, settings=index.settings)
        await self._indexes.change(again, from_={index.state})
        return again
