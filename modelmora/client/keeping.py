"""The client's half of kept pictures: brought, searched, looked after."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modelmora.client import flow
from modelmora.client.found import Found
from modelmora.client.images import Images
from modelmora.client.indexes import Indexes, OnIndex
from modelmora.client.kept import IndexInfo, KeptImage
from modelmora.client.letters import DeadLetters
from modelmora.client.questions import Query, Question, count, filter_of, number, parts_of
from modelmora.client.session import Session, noted
from modelmora.client.transport import Transport
from modelmora.client.uploading import Parcel, Stored, Terms, parcels, told_metadata
from modelmora.domain.inference import Priority
from modelmora.domain.outcome import Outcome
from modelmora.errors import ModelMoraError, ValidationFailed

if TYPE_CHECKING:
    from modelmora.client.pictures import Picture
    from modelmora.client.questions import Vector
    from modelmora.client.uploading import Named

REINDEX_TIMEOUT_S = 24 * 3600.0


class Keeping(Session):
    """Pictures are known by their bytes, so one that is brought twice is kept once, and uploads are repeated freely."""

    async def upload(
        self,
        files: Sequence[Named | Stored],
        *,
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        collection: str | None = None,
        ttl_s: int | None = None,
        wait: bool = True,
        timeout: float | None = None,
        priority: Priority = "interactive",
    ) -> list[Outcome[KeptImage]]:
        """One outcome per picture, same order. What is `indexed` is found by the next search.

        A file is a picture as elsewhere, `(name, picture)`, or `Stored("s3://bucket/key")` for one that the server may
        read itself. `metadata` is a mapping for all or a list of one for each, `ttl_s` the seconds after which they are
        removed. `wait` False answers once they are safe, before they are indexed (`images.settled` waits for that).
        `timeout` is of each request of a few pictures.
        """
        found: dict[int, Outcome[KeptImage]] = {}
        numbered = self.upload_each(
            files, tags=tags, metadata=metadata, collection=collection, ttl_s=ttl_s, wait=wait, timeout=timeout,
            priority=priority,
        )  # fmt: skip
        async with aclosing(numbered):
            async for index, outcome in numbered:
                found[index] = outcome
        return [found[index] for index in range(len(files))]

    async def upload_each(
        self,
        files: Sequence[Named | Stored],
        *,
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        collection: str | None = None,
        ttl_s: int | None = None,
        wait: bool = True,
        timeout: float | None = None,
        priority: Priority = "bulk",
    ) -> AsyncGenerator[tuple[int, Outcome[KeptImage]], None]:
        """As `upload`: `(index, outcome)` as they come. Files are read when their turn has come."""
        of_all, each = told_metadata(metadata, count=len(_many("files", files)))
        terms = Terms(
            tags=tuple(_many("tags", tags)),
            metadata=of_all,
            each=each,
            collection=collection,
            ttl_s=count("ttl_s", ttl_s),
            wait=bool(wait),
        )

        async def send(chunk: list[Outcome[Parcel]]) -> list[Outcome[KeptImage]]:
            call = self._call(timeout, priority=priority)

            async def ask(transport: Transport, some: Sequence[Parcel]) -> list[Outcome[KeptImage]]:
                return await transport.upload(some, terms=terms, call=call)

            return await self._settle(chunk, ask, call=call)

        begun = 0
        sent = flow.spread(parcels(files, terms), send, concurrency=self._channels)
        async with aclosing(sent) as answered:
            async for _, part in answered:
                for index, outcome in enumerate(part, start=begun):
                    yield index, outcome
                begun += len(part)

    async def search(
        self,
        text: str | None = None,
        *,
        image: Picture | None = None,
        id: str | None = None,
        vector: Vector | None = None,
        queries: Sequence[Query] = (),
        filter: Mapping[str, Any] | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        score_threshold: float | None = None,
        model: str | None = None,
        collection: str | None = None,
        exact: bool = False,
        group_by: str | None = None,
        group_size: int | None = None,
        timeout: float | None = None,
        priority: Priority = "interactive",
    ) -> Found:
        """Kept pictures that are like a text, a picture, a kept one, a vector, or several `queries` with weights.

        `filter` is `{"tags": [...] or {"any", "all", "none"}, "metadata": {key: value, [values] or {"gt", "gte", "lt",
        "lte"}}, "ids", "created_after", "created_before"}`. `cursor` is the `next_cursor` of the same question.
        `group_by` is a key of metadata. Raises CapabilityMissing for a text where the model takes none,
        naming models that do, ImageNotFound for an id without a vector, ValidationFailed.
        """
        plain = Query(text=text, image=image, id=id, vector=vector)
        given = [replace(Query(), **{kind: value}) for kind, value in _contents(plain).items()]
        question = Question(
            parts=await parts_of([*given, *_many("queries", queries)]),
            limit=count("limit", limit),
            cursor=cursor,
            filter=filter_of(filter),
            score_threshold=number("score_threshold", score_threshold),
            model=model,
            collection=collection,
            exact=bool(exact),
            group_by=group_by,
            group_size=count("group_size", group_size),
        )
        return await self._ask(question, timeout, priority)

    async def reindex(
        self,
        model: str,
        *,
        version: str | None = None,
        collection: str = "default",
        switch: bool = True,
        wait: bool = False,
        timeout: float = REINDEX_TIMEOUT_S,
        on_progress: OnIndex | None = None,
    ) -> IndexInfo:
        """The collection's pictures are embedded anew in the background by a version (None: the current one), while
        searches go on; with `switch` searches go to the new index as soon as it is complete.

        With `wait` it is followed until then, `timeout` seconds at most.
        """
        tell = on_progress or (lambda index: None)
        index = await self.indexes.begin(model, version=version, collection=collection, switch=switch)
        return await self.indexes.complete(index, switch=switch, timeout=timeout, tell=tell) if wait else index

    @property
    def images(self) -> Images:
        """Kept pictures: `get`, `list`, `content`, `thumbnail`, `settled`, `delete`, `delete_many`."""
        return Images(self._control, self._retrier.sleep)

    @property
    def dead_letters(self) -> DeadLetters:
        """What the server gave up: `list`, `get`, `replay`, `remove`."""
        return DeadLetters(self._control)

    @property
    def indexes(self) -> Indexes:
        """Indexes: `list`, `get`, `switch`, `drop`."""
        return Indexes(self._control, self._retrier.sleep)

    async def _ask(self, question: Question, timeout: float | None, priority: Priority) -> Found:
        call = self._call(timeout, priority=priority)
        self._open()

        async def once() -> Found:
            return await self._still_open().search(question, call=call)

        try:
            return await self._retrier.value(once, deadline=call.deadline)
        except ModelMoraError as error:
            raise noted(error, call) from error.__cause__


def _contents(plain: Query) -> dict[str, Any]:
    given = {"text": plain.text, "image": plain.image, "id": plain.id, "vector": plain.vector}
    return {kind: value for kind, value in given.items() if value is not None}


def _many(field: str, given: Any) -> Any:
    """Raises ValidationFailed where one thing stands for a list of things, which its letters or bytes would be."""
    if isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray | memoryview):
        return given
    raise ValidationFailed(f"{field} is no list", field=field, found=type(given).__name__, expected="a list")
