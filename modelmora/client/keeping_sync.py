"""Kept pictures' half of the sync facade."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, Unpack

from modelmora.client.found import Found
from modelmora.client.images import Images
from modelmora.client.indexes import SWITCH_TIMEOUT_S, Indexes, OnIndex
from modelmora.client.kept import DeadLetterInfo, ImageInfo, IndexInfo, KeptImage
from modelmora.client.letters import DeadLetters
from modelmora.client.questions import Query
from modelmora.client.uploading import Stored
from modelmora.domain.inference import Priority
from modelmora.domain.outcome import Outcome
from modelmora.domain.pictures.picture import PictureState

if TYPE_CHECKING:
    from modelmora.client.client import Client
    from modelmora.client.pictures import Picture
    from modelmora.client.questions import Vector
    from modelmora.client.uploading import Named

T = TypeVar("T")


class UploadOptions(TypedDict, total=False):
    """The keyword arguments of `upload` and `upload_each`."""

    tags: Sequence[str]
    metadata: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
    collection: str | None
    ttl_s: int | None
    wait: bool
    timeout: float | None
    priority: Priority


class SearchOptions(TypedDict, total=False):
    """The keyword arguments of `search` beside what is searched for."""

    filter: Mapping[str, Any] | None
    limit: int | None
    cursor: str | None
    score_threshold: float | None
    model: str | None
    collection: str | None
    exact: bool
    group_by: str | None
    group_size: int | None
    timeout: float | None
    priority: Priority


class ReindexOptions(TypedDict, total=False):
    """The keyword arguments of `reindex`."""

    version: str | None
    collection: str
    switch: bool
    wait: bool
    timeout: float
    on_progress: OnIndex | None


class ImagesOptions(TypedDict, total=False):
    """Which pictures: the keyword arguments of `images.list` and `images.delete_many`."""

    collection: str | None
    state: PictureState | None
    tags: Sequence[str]
    sha256: str | None
    created_before: datetime | None


class Runs(Protocol):
    """What waits for async work."""

    def _run(self, work: Coroutine[Any, Any, T]) -> T: ...

    def _each(self, items: AsyncGenerator[T, None]) -> Iterator[T]: ...


class SyncKeeping:
    """Each method waits for the async one of the same name; `on_progress` is called in another thread."""

    _client: Client

    def upload(self, files: Sequence[Named | Stored], **options: Unpack[UploadOptions]) -> list[Outcome[KeptImage]]:
        return self._run(self._client.upload(files, **options))

    def upload_each(
        self, files: Sequence[Named | Stored], **options: Unpack[UploadOptions]
    ) -> Iterator[tuple[int, Outcome[KeptImage]]]:
        return self._each(self._client.upload_each(files, **options))

    def search(
        self,
        text: str | None = None,
        *,
        image: Picture | None = None,
        id: str | None = None,
        vector: Vector | None = None,
        queries: Sequence[Query] = (),
        **options: Unpack[SearchOptions],
    ) -> Found:
        return self._run(self._client.search(text, image=image, id=id, vector=vector, queries=queries, **options))

    def reindex(self, model: str, **options: Unpack[ReindexOptions]) -> IndexInfo:
        return self._run(self._client.reindex(model, **options))

    @property
    def images(self) -> SyncImages:
        return SyncImages(self, self._client.images)

    @property
    def dead_letters(self) -> SyncDeadLetters:
        return SyncDeadLetters(self, self._client.dead_letters)

    @property
    def indexes(self) -> SyncIndexes:
        return SyncIndexes(self, self._client.indexes)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        raise NotImplementedError

    def _each(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        raise NotImplementedError


class SyncImages:
    """`Images`, waited for."""

    def __init__(self, runs: Runs, images: Images) -> None:
        self._runs, self._images = runs, images

    def get(self, id: str) -> ImageInfo:
        return self._runs._run(self._images.get(id))

    def list(self, **options: Unpack[ImagesOptions]) -> Iterator[ImageInfo]:
        return self._runs._each(self._images.list(**options))

    def content(self, id: str, *, timeout: float | None = None) -> bytes:
        return self._runs._run(self._images.content(id, timeout=timeout))

    def thumbnail(self, id: str, *, timeout: float | None = None) -> bytes:
        return self._runs._run(self._images.thumbnail(id, timeout=timeout))

    def settled(self, id: str, *, timeout: float = 60.0) -> ImageInfo:
        return self._runs._run(self._images.settled(id, timeout=timeout))

    def delete(self, id: str) -> None:
        self._runs._run(self._images.delete(id))

    def delete_many(self, ids: Sequence[str] | None = None, **options: Unpack[ImagesOptions]) -> int:
        return self._runs._run(self._images.delete_many(ids, **options))


class SyncDeadLetters:
    """`DeadLetters`, waited for."""

    def __init__(self, runs: Runs, letters: DeadLetters) -> None:
        self._runs, self._letters = runs, letters

    def list(self, *, code: str | None = None) -> Iterator[DeadLetterInfo]:
        return self._runs._each(self._letters.list(code=code))

    def get(self, id: str) -> DeadLetterInfo:
        return self._runs._run(self._letters.get(id))

    def replay(self, *ids: str, code: str | None = None, all: bool = False) -> int:
        return self._runs._run(self._letters.replay(*ids, code=code, all=all))

    def remove(self, id: str) -> None:
        self._runs._run(self._letters.remove(id))


class SyncIndexes:
    """`Indexes`, waited for."""

    def __init__(self, runs: Runs, indexes: Indexes) -> None:
        self._runs, self._indexes = runs, indexes

    def list(self, *, collection: str | None = None) -> tuple[IndexInfo, ...]:
        return self._runs._run(self._indexes.list(collection=collection))

    def get(self, ref: str, *, collection: str = "default") -> IndexInfo:
        return self._runs._run(self._indexes.get(ref, collection=collection))

    def switch(self, ref: str, *, collection: str = "default", timeout: float = SWITCH_TIMEOUT_S) -> IndexInfo:
        return self._runs._run(self._indexes.switch(ref, collection=collection, timeout=timeout))

    def drop(self, ref: str, *, collection: str = "default", timeout: float = SWITCH_TIMEOUT_S) -> None:
        self._runs._run(self._indexes.drop(ref, collection=collection, timeout=timeout))
