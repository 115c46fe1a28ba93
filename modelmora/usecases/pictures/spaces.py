"""Which spaces a picture is to be in, and the index of each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog

from modelmora.domain.catalogue import Look
from modelmora.domain.models import ModelRef, ModelSpec
from modelmora.domain.pictures.spaces import Index, IndexSettings, IndexState, Space
from modelmora.errors import NotFound
from modelmora.ports import Indexes, Vectors

log = structlog.get_logger(__name__)

REMEMBERED_S = 1.0
"""So late is seen what another process changed of the indexes."""
FILLING: frozenset[IndexState] = frozenset({"live", "building", "verifying", "ready", "draining"})
"""Indexes that new pictures go into: the one that is searched, the next one, and the way back."""


class Spaces:
    """Of each embedding model that asks to be indexed: its live index's version and those that are being filled; where
    it has none, its current version, whose index is made when the first vector comes. `clock` is in seconds."""

    def __init__(
        self,
        look: Look,
        indexes: Indexes,
        vectors: Vectors,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._indexes = indexes
        self._vectors = vectors
        self._now = now
        self._clock = clock
        self._known: dict[str, tuple[float, tuple[Index, ...]]] = {}
        self._made: set[str] = set()

    async def of(self, collection: str) -> tuple[Space, ...]:
        """By model; what is not served any more is left out. Raises DependencyUnavailable."""
        catalogue, found = self._look(), await self._of(collection)
        asking: dict[str, ModelSpec] = {}
        for spec in catalogue.of_type("embedding"):
            if spec.index is not None:
                asking.setdefault(spec.name, spec)
        with contextlib.suppress(NotFound):
            usual = catalogue.default("embedding")
            asking.setdefault(usual.name, usual)
        versions = {(index.space.model, index.space.version) for index in found if index.state in FILLING}
        indexed = {model for model, _ in versions}
        for name in asking:
            if name not in indexed and (current := self._current(name)) is not None:
                versions.add((name, current.version))
        served = [(model, version) for model, version in sorted(versions) if catalogue.find(model, version)]
        return tuple(Space(model=model, version=version, collection=collection) for model, version in served)

    async def left(self, space: Space) -> bool:
        """Whether nothing is indexed there any more: no model asks for it, and no index of it is filled."""
        filled = (index.space for index in await self._of(space.collection) if index.state in FILLING)
        return space not in filled and space not in await self.of(space.collection)

    async def index_of(self, collection: str, model: str) -> Index | None:
        """The one that is searched; None before anything is indexed. Raises DependencyUnavailable."""
        for index in await self._of(collection):
            if index.space.model == model and index.state == "live":
                return index
        return None

    async def ensure(self, space: Space, dimension: int) -> None:
        """The space has an index; the first of its model is searched from now on.

        Idempotent, from any number of processes at once. Raises DependencyUnavailable, Conflict.
        """
        if space.name in self._made and any(index.space == space for index in await self._of(space.collection)):
            return
        found = {index.space: index for index in await self._indexes.all(collection=space.collection)}
        settings = self.settings_of(space)
        if space not in found:
            now = self._now()
            index = Index(
                space=space, state="live", dimension=dimension, settings=settings, created_at=now, changed_at=now
            )
            standing = await self._indexes.add(index)
            if standing.space != space:  # another version of the model is searched: this one fills up beside it
                await self._indexes.add(replace(index, state="building"))
        await self._vectors.create(space.name, dimension=dimension, settings=settings)
        live = await self.refreshed(space.collection, space.model)
        if live is not None and live.space == space:
            await self._vectors.switch(space.alias, space.name)
        self._made.add(space.name)
        log.info("index_ensured", index=space.name, dimension=dimension)

    def forget(self) -> None:
        """Something was changed here: what is remembered is asked anew."""
        self._known.clear()
        self._made.clear()

    async def refreshed(self, collection: str, model: str) -> Index | None:
        """`index_of` as it is this moment."""
        self._known.pop(collection, None)
        return await self.index_of(collection, model)

    def settings_of(self, space: Space) -> IndexSettings:
        """As the registry declares them for the version, else for another one of the model."""
        catalogue = self._look()
        spec = catalogue.find(space.model, space.version)
        others = (one.index for one in catalogue.of_type("embedding") if one.name == space.model)
        own = spec.index if spec is not None else None
        return own or next((one for one in others if one is not None), IndexSettings())

    def _current(self, name: str) -> ModelSpec | None:
        try:
            return self._look().get(ModelRef(name))
        except NotFound:
            return None

    async def _of(self, collection: str) -> tuple[Index, ...]:
        now = self._clock()
        kept = self._known.get(collection)
        if kept is not None and now - kept[0] < REMEMBERED_S:
            return kept[1]
        found = await self._indexes.all(collection=collection)
        self._known[collection] = (now, found)
        return found
