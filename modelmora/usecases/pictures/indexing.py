"""Pictures whose bytes are at hand into their spaces: one embed call and one upsert a space, one record of it all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol, TypeAlias

import structlog

from modelmora.domain.events.envelope import Event
from modelmora.domain.events.images import EmbeddingGenerated, failed, generated
from modelmora.domain.inference import Call, Content, Embedded, Image
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.pictures.picture import Picture
from modelmora.domain.pictures.search import Point, Provenance
from modelmora.domain.pictures.spaces import Space
from modelmora.domain.pictures.way import RetryRule, Stage, Step, Verdict, Way
from modelmora.errors import (
    DeadlineExceeded,
    InputError,
    InternalError,
    ModelMoraError,
    NotFound,
    WrongState,
    unexpected,
)
from modelmora.ports import PictureRecords, Vectors
from modelmora.usecases.embed import Embeddings
from modelmora.usecases.pictures.deadlines import before
from modelmora.usecases.pictures.spaces import Spaces

log = structlog.get_logger(__name__)

Verdicts: TypeAlias = Mapping[tuple[str, str], Verdict]
"""What became of each way, by the picture's id and the space's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """A picture, its bytes or why they could not be had, and the ways that it goes now."""

    picture: Picture
    data: Outcome[bytes]
    ways: tuple[Way, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Teller:
    """How events are made: in whose name, for which topic, with which ids and times."""

    source: str
    topic: str
    new_id: Callable[[], str]
    clock: Callable[[], datetime]


class Embeds(Protocol):
    """Embeds pictures by the version of that name: the use case here, or an API worker asked from elsewhere."""

    async def __call__(self, ref: str | None, items: Sequence[Outcome[Content]], *, call: Call) -> Embeddings: ...


class Indexing:
    """Goes the ways of pictures that were registered and claimed."""

    def __init__(
        self,
        embed: Embeds,
        spaces: Spaces,
        *,
        vectors: Vectors,
        records: PictureRecords,
        teller: Teller,
        rule: RetryRule,
        draw: Callable[[], float],
    ) -> None:
        self._embed = embed
        self._spaces = spaces
        self._vectors = vectors
        self._records = records
        self._teller = teller
        self._rule = rule
        self._draw = draw

    async def __call__(self, going: Sequence[Going], *, call: Call) -> Verdicts:
        """What became of every way, which is kept when this returns: searches find what is `indexed`.

        A failure that may pass makes a way wait and lets its announcement go, so that the line of events takes it from
        here. Raises what keeping the verdicts raises: then the ways stay `working`, until their announcement is due.
        """
        steps = await self.steps(going, call=call)
        await self._records.finish(steps)
        await self.forget_removed(steps, {one.picture.id: one.picture.collection for one in going})
        return {(step.picture_id, step.space): step.verdict for step in steps}

    async def steps(self, going: Sequence[Going], *, call: Call) -> list[Step]:
        """As above, with the verdicts for the caller to keep."""
        by_space: dict[str, list[Going]] = {}
        steps: list[Step] = []
        for one in going:
            for way in one.ways:
                if await self._spaces.left(_space(way.space, one.picture.collection)):
                    verdict = Verdict(state="superseded")
                    steps.append(Step(picture_id=one.picture.id, space=way.space, seq=way.seq, verdict=verdict))
                else:
                    by_space.setdefault(way.space, []).append(one)
        ended = await asyncio.gather(*(self._into(space, some, call) for space, some in by_space.items()))
        return steps + [step for some in ended for step in some]

    async def forget_removed(self, steps: Sequence[Step], collections: Mapping[str, str]) -> None:
        """Who removed a picture while it was on its way found no vector of it yet."""
        made = {(step.picture_id, step.space) for step in steps if step.verdict.state == "indexed"}
        try:
            ways = await self._records.ways({id_ for id_, _ in made}) if made else {}
            for way in (way for some in ways.values() for way in some):
                if way.state == "tombstoned" and (way.picture_id, way.space) in made:
                    space = _space(way.space, collections[way.picture_id])
                    await self._vectors.delete(space.name, [way.picture_id])
        except ModelMoraError as error:  # the event of the removal does it again
            log.warning("removed_not_looked_for", code=error.code)

    async def _into(self, key: str, going: Sequence[Going], call: Call) -> list[Step]:
        """All of them into one space; whatever fails is a verdict."""
        stage: Stage = "embedding"
        try:
            async with before(call.deadline, "embedding the pictures"):
                answer = await self._embed(key, [_content(one) for one in going], call=call)
            stage = "upserting"
            async with before(call.deadline, "indexing the pictures"):
                await self._upsert(answer.model, going, answer.outcomes)
        except Exception as cause:
            if not isinstance(cause, ModelMoraError):
                log.exception("indexing_failed", space=key, request_id=call.request_id)
            error = cause if isinstance(cause, ModelMoraError) else unexpected()
            if len(going) > 1 and isinstance(error, InputError | InternalError):  # one of them spoils it for the others
                half = len(going) // 2
                return [*await self._into(key, going[:half], call), *await self._into(key, going[half:], call)]
            return [self._failed(one, key, _of_all(error), stage) for one in going]
        pairs = zip(going, answer.outcomes, strict=True)
        return [self._step(one, answer.model, outcome) for one, outcome in pairs]

    async def _upsert(self, model: ModelSpec, going: Sequence[Going], outcomes: Sequence[Outcome[Embedded]]) -> None:
        made = [(one, o.value) for one, o in zip(going, outcomes, strict=True) if isinstance(o, Ok)]
        by_collection: dict[str, list[Point]] = {}
        for one, embedded in made:
            by_collection.setdefault(one.picture.collection, []).append(self._point(one.picture, model, embedded))
        for collection, points in by_collection.items():
            space = Space(model=model.name, version=model.version, collection=collection)
            if space not in await self._spaces.of(collection):  # it was let go of meanwhile, and is not made again
                raise WrongState(f"the collection {collection} is not indexed by {space.key} any more", field="space")
            await self._spaces.ensure(space, made[0][1].vector.dimension)
            await self._vectors.upsert(space.name, points)

    def _point(self, picture: Picture, model: ModelSpec, embedded: Embedded) -> Point:
        provenance = Provenance(
            picture_id=picture.id,
            sha256=picture.sha256,
            model=model.name,
            version=model.version,
            precision=model.precision,
            seq=picture.seq,
            embedded_at=self._teller.clock(),
        )
        return Point(
            vector=embedded.vector.data,
            facts=picture.facts,
            provenance=provenance,
            content_type=picture.content_type,
            created_at=picture.created_at,
        )

    def _step(self, one: Going, model: ModelSpec, outcome: Outcome[Embedded]) -> Step:
        """Of a picture that was embedded, or could not be."""
        if isinstance(outcome, Failed):
            return self._failed(one, model.key, outcome.error, "embedding" if isinstance(one.data, Ok) else "fetching")
        picture = one.picture
        space = Space(model=model.name, version=model.version, collection=picture.collection)
        told = EmbeddingGenerated(
            image_id=picture.id,
            tenant=picture.tenant,
            collection=picture.collection,
            model=model.name,
            version=model.version,
            dimension=outcome.value.vector.dimension,
            precision=model.precision,
            seq=picture.seq,
            index=space.name,
        )
        teller = self._teller
        event = generated(
            picture, told, source=teller.source, id_=teller.new_id(), time=teller.clock(), topic=teller.topic
        )
        verdict = Verdict(state="indexed")
        return Step(picture_id=picture.id, space=model.key, seq=picture.seq, verdict=verdict, event=event)

    def _failed(self, one: Going, key: str, error: ModelMoraError, stage: Stage) -> Step:
        """What is late is due at once; else waits grow with the tries, until they are used up."""
        way = next(way for way in one.ways if way.space == key)
        attempts = way.attempts + 1
        verdict = self._rule.after(error, attempts=attempts, stage=stage, draw=self._draw)
        event = None
        if verdict.state == "retry_wait":
            verdict = replace(verdict, delay_s=0.0) if isinstance(error, DeadlineExceeded) else verdict
        else:
            event = self._told(one.picture, key, verdict, attempts)
        return Step(picture_id=one.picture.id, space=key, seq=one.picture.seq, verdict=verdict, event=event)

    def _told(self, picture: Picture, key: str, verdict: Verdict, attempts: int) -> Event:
        teller = self._teller
        told = {"source": teller.source, "id_": teller.new_id(), "topic": teller.topic}
        return failed(picture, key, verdict, attempts=attempts, time=teller.clock(), **told)


def _of_all(error: ModelMoraError) -> ModelMoraError:
    """What befell a whole call: that a version is gone is no picture's fault, and none is refused for it."""
    return WrongState(error.detail) if isinstance(error, NotFound) else error


def _space(key: str, collection: str) -> Space:
    model, _, version = key.partition("@")
    return Space(model=model, version=version, collection=collection)


def _content(one: Going) -> Outcome[Content]:
    return Ok(Image(one.data.value)) if isinstance(one.data, Ok) else one.data
