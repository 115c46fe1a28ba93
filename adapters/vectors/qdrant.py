"""The port `Vectors` over Qdrant: its local mode in a folder, or a server; the same client and calls for both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import structlog

from adapters.vectors.failures import MISSING, REFUSED, status_of, unavailable
from adapters.vectors.filters import Filters
from adapters.vectors.opening import named, open_folder, open_server
from adapters.vectors.payloads import hit_of, length_of, numbers, payload_of, point_of, value_of
from adapters.vectors.shapes import created_with, payload_indexes
from adapters.vectors.transactions import one_transaction
from modelmora.domain.pictures.search import Hit, Point, Question
from modelmora.domain.pictures.spaces import IndexSettings, point_id
from modelmora.errors import Conflict, DependencyUnavailable, ModelMoraError, ModelNotFound

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

log = structlog.get_logger(__name__)
T = TypeVar("T")

MANY = 20_000
"""From so many points on a folder is slow: local mode compares each vector with the question's."""
THREADS = 8
"""Questions to a server at once; a folder has one thread, which is the only one that touches it."""


class QdrantVectors:
    """Made by `local` or `server`. The library takes a second to import, which happens on its own thread."""

    def __init__(
        self, client: QdrantClient, models: Any, threads: ThreadPoolExecutor, *, where: str, folder: bool
    ) -> None:
        self._client = client
        self._models = models
        self._filters = Filters(models)
        self._threads = threads
        self._where = where
        self._folder = folder
        self._closed = False
        self._dimensions: dict[str, int] = {}
        """Of indexes and aliases as they were seen last: another process may have changed either since."""
        self._warned: set[str] = set()

    @classmethod
    async def local(cls, folder: Path) -> Self:
        """In a folder, for this process alone; raises DependencyUnavailable where another has it."""
        threads = ThreadPoolExecutor(1, thread_name_prefix="vectors")
        client, models = await _opened(threads, lambda: open_folder(folder), where=str(folder))
        made = cls(client, models, threads, where=str(folder), folder=True)
        await made._ask(lambda: [made._warn(one.name) for one in client.get_collections().collections])
        return made

    @classmethod
    async def server(cls, url: str, *, timeout_s: float) -> Self:
        """A Qdrant server: `http(s)://` by REST, `grpc(s)://` by gRPC; the URL's password is the API key. Nothing is
        asked of it yet."""
        threads = ThreadPoolExecutor(THREADS, thread_name_prefix="vectors")
        client, models = await _opened(threads, lambda: open_server(url, timeout_s=timeout_s), where=named(url))
        return cls(client, models, threads, where=named(url), folder=False)

    async def create(self, name: str, *, dimension: int, settings: IndexSettings) -> None:
        """See the port."""
        await self._ask(lambda: self._create(name, dimension, settings))

    async def upsert(self, name: str, points: Sequence[Point]) -> None:
        """See the port."""
        await self._ask(lambda: self._upsert(name, points))

    async def delete(self, name: str, picture_ids: Sequence[str]) -> None:
        """See the port."""
        selector = self._models.PointIdsList(points=[point_id(id_) for id_ in picture_ids])

        def work() -> None:
            with one_transaction(self._client, name):
                self._client.delete(name, points_selector=selector)

        if picture_ids:
            await self._ask(lambda: _or(work, None))

    async def vectors(self, name: str, picture_ids: Sequence[str]) -> Mapping[str, bytes]:
        """See the port."""
        ids = [point_id(id_) for id_ in picture_ids]

        def work() -> dict[str, bytes]:
            found = self._client.retrieve(name, ids, with_payload=["id"], with_vectors=True)
            return {(one.payload or {})["id"]: np.asarray(one.vector, "<f4").tobytes() for one in found}

        return await self._ask(lambda: _or(work, {})) if ids else {}

    async def points(self, name: str, picture_ids: Sequence[str]) -> list[Point]:
        """See the port."""
        ids = [point_id(id_) for id_ in picture_ids]

        def work() -> list[Point]:
            found = self._client.retrieve(name, ids, with_payload=True, with_vectors=True)
            return [point_of(one.payload or {}, np.asarray(one.vector, "<f4").tobytes()) for one in found]

        return await self._ask(lambda: _or(work, [])) if ids else []

    async def search(self, name: str, question: Question) -> list[Hit]:
        """See the port."""
        ask = self._nearest if question.group_by is None else self._groups
        vectors = [question.vector]
        return await self._ask(lambda: self._fitted(name, vectors, lambda rows: ask(name, rows[0], question)) or [])

    async def count(self, name: str) -> int:
        """See the port."""
        return await self._ask(lambda: _or(lambda: int(self._client.count(name).count), 0))

    async def ids(self, name: str, *, after: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
        """See the port; `after` is what the page before told."""

        def work() -> tuple[tuple[str, ...], str | None]:
            found, following = self._client.scroll(name, limit=limit, offset=after, with_payload=["id"])
            told = tuple((one.payload or {})["id"] for one in found)
            return told, None if following is None else str(following)

        nothing: tuple[tuple[str, ...], str | None] = ((), None)
        return await self._ask(lambda: _or(work, nothing))

    async def switch(self, alias: str, name: str) -> None:
        """See the port; raises ModelNotFound where there is no such index."""
        m = self._models

        def work() -> bool:
            made = m.CreateAliasOperation(create_alias=m.CreateAlias(collection_name=name, alias_name=alias))
            gone = m.DeleteAliasOperation(delete_alias=m.DeleteAlias(alias_name=alias))
            steps = [gone, made] if alias in self._standing() else [made]
            self._client.update_collection_aliases(change_aliases_operations=steps)
            self._dimensions.pop(alias, None)
            return True

        if not await self._ask(lambda: _or(work, False)):
            raise _no_index(name)

    async def standing(self) -> Mapping[str, str]:
        """See the port."""
        return await self._ask(self._standing)

    async def names(self) -> tuple[str, ...]:
        """See the port."""
        return await self._ask(lambda: tuple(sorted(one.name for one in self._client.get_collections().collections)))

    async def drop(self, name: str) -> None:
        """See the port."""

        def work() -> None:
            _or(lambda: self._client.delete_collection(name), False)
            self._dimensions.clear()  # aliases of it are gone as well

        await self._ask(work)

    async def ping(self) -> float:
        """See the port."""
        start = time.perf_counter()
        await self._ask(self._client.get_collections)
        return (time.perf_counter() - start) * 1e3

    async def close(self) -> None:
        """Idempotent; what was asked before is done."""
        if not self._closed:
            self._closed = True
            try:
                await self._ask(self._client.close)
            finally:
                self._threads.shutdown(wait=False)

    async def _ask(self, work: Callable[[], T]) -> T:
        """The work on a thread; foreign failures become ours."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ModelMoraError:
            raise
        except Exception as cause:
            raise unavailable(self._where, cause) from cause

    def _create(self, name: str, dimension: int, settings: IndexSettings) -> None:
        there = self._seen(name)
        if there is None:
            told = created_with(self._models, dimension, settings, folder=self._folder)
            try:
                self._client.create_collection(name, **told)
            except Exception:
                if self._seen(name) is None:  # no other process was quicker
                    raise
            there = self._seen(name)
        if there != dimension:
            said = f"the index {name} is of {there} dimensions"
            raise Conflict(said, field="dimension", found=str(dimension), expected=str(there))
        if not self._folder:  # which compares each; on a server whoever made the index may have ended before this
            for field, kind in payload_indexes(self._models, settings).items():
                self._client.create_payload_index(name, field, field_schema=kind)

    def _upsert(self, name: str, points: Sequence[Point]) -> None:
        def work(rows: Sequence[list[float]]) -> bool:
            m, told = self._models, zip(points, rows, strict=True)
            ordered = sorted(told, key=lambda pair: pair[0].provenance.seq)
            with one_transaction(self._client, name):
                for seq, group in groupby(ordered, key=lambda pair: pair[0].provenance.seq):
                    structs = [
                        m.PointStruct(id=point_id(one.provenance.picture_id), vector=row, payload=payload_of(one))
                        for one, row in group
                    ]
                    self._client.upsert(name, structs, update_filter=self._filters.not_newer(seq))
            return True

        if self._fitted(name, [point.vector for point in points], work) is None:
            raise _no_index(name)
        if self._folder:
            self._warn(name)

    def _warn(self, name: str) -> None:
        if name not in self._warned and self._client.count(name).count >= MANY:
            self._warned.add(name)
            log.warning("local_vectors_large", index=name, points=MANY, remedy="MODELMORA_VECTORS_URL: a Qdrant server")

    def _nearest(self, name: str, row: list[float], question: Question) -> list[Hit]:
        """Of the first page pictures are left out here: a folder would look for them among all of its points."""
        beyond = question.exclude if question.offset == 0 else ()
        asked = self._asked(row, question, exclude=() if beyond else question.exclude)
        limit = question.limit + len(beyond)
        found = self._client.query_points(name, **asked, limit=limit, offset=question.offset).points
        hits = [hit_of(one.payload or {}, one.score) for one in found]
        return _ordered([hit for hit in hits if hit.id not in beyond][: question.limit])

    def _groups(self, name: str, row: list[float], question: Question) -> list[Hit]:
        asked = self._asked(row, question, exclude=question.exclude)
        asked |= {"limit": question.limit, "group_size": question.group_size}
        found = self._client.query_points_groups(name, group_by=f"values.{question.group_by}", **asked).groups
        groups = [
            _ordered([hit_of(one.payload or {}, one.score, group=value_of(str(group.id))) for one in group.hits])
            for group in found
        ]
        return [hit for group in sorted(groups, key=lambda group: _rank(group[0])) for hit in group]

    def _asked(self, row: list[float], question: Question, *, exclude: Sequence[str]) -> dict[str, Any]:
        return {
            "query": row,
            "query_filter": self._filters.of(question.filter, exclude=exclude),
            "score_threshold": question.score_threshold,
            "search_params": self._models.SearchParams(exact=True) if question.exact and not self._folder else None,
            "with_payload": True,
        }

    def _fitted(
        self, name: str, vectors: Sequence[Sequence[float] | bytes], work: Callable[[Sequence[list[float]]], T]
    ) -> T | None:
        """The work with vectors that fit the index, None where there is none; once more where the index is another one
        than it was: an alias that another process has switched, say."""
        for last in (False, True):
            rows = self._rows(name, vectors)
            if rows is None:
                return None
            try:
                return work(rows)
            except Exception as cause:
                if last or status_of(cause) not in (MISSING, REFUSED):
                    raise
                self._dimensions.pop(name, None)
        raise AssertionError  # the second time returns or raises

    def _rows(self, name: str, vectors: Sequence[Sequence[float] | bytes]) -> list[list[float]] | None:
        dimension = self._dimensions.get(name)
        if dimension is None or any(length_of(vector) != dimension for vector in vectors):
            dimension = self._seen(name)
        if dimension is None:
            return None
        return [numbers(vector, dimension=dimension, name=name) for vector in vectors]

    def _seen(self, name: str) -> int | None:
        """The dimension of an index or an alias; None where there is none."""
        self._dimensions.pop(name, None)
        info = _or(lambda: self._client.get_collection(name), None)
        if info is None:
            return None
        self._dimensions[name] = int(info.config.params.vectors.size)  # type: ignore[union-attr] # ours have one vector a point
        return self._dimensions[name]

    def _standing(self) -> dict[str, str]:
        return {one.alias_name: one.collection_name for one in self._client.get_aliases().aliases}


async def _opened(
    threads: ThreadPoolExecutor, open_: Callable[[], tuple[Any, Any]], *, where: str
) -> tuple[QdrantClient, Any]:
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, open_)
    except Exception as cause:
        threads.shutdown(wait=False)
        if isinstance(cause, DependencyUnavailable):
            raise
        raise unavailable(where, cause) from cause


def _or(work: Callable[[], T], absent: T) -> T:
    """The work's answer, or what stands for it where there is no such index."""
    try:
        return work()
    except Exception as cause:
        if status_of(cause) == MISSING:
            return absent
        raise


def _no_index(name: str) -> ModelNotFound:
    return ModelNotFound(f"there is no index {name}", field="index", found=name)


def _rank(hit: Hit) -> tuple[float, str]:
    return -hit.score, hit.id


def _ordered(hits: list[Hit]) -> list[Hit]:
    return sorted(hits, key=_rank)
