"""The port `Vectors` over Qdrant: its local mode in a folder, or a server; the same client and calls for both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
import structlog

from adapters.vectors.filters import Filters
from adapters.vectors.payloads import SEQ, hit_of, numbers, payload_of
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

    def __init__(self, client: QdrantClient, models: Any, threads: ThreadPoolExecutor, *, where: str) -> None:
        self._client = client
        self._models = models
        self._filters = Filters(models)
        self._threads = threads
        self._where = where
        self._local = threads._max_workers == 1
        self._dimensions: dict[str, int] = {}
        self._warned: set[str] = set()

    @classmethod
    async def local(cls, folder: Path) -> Self:
        """In a folder, for this process alone; raises DependencyUnavailable where another has it."""

        def opened() -> tuple[Any, Any]:
            from qdrant_client import QdrantClient, models  # noqa: PLC0415

            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return QdrantClient(path=str(folder)), models

        return await cls._open(opened, ThreadPoolExecutor(1, thread_name_prefix="vectors"), where=str(folder))

    @classmethod
    async def server(cls, url: str, *, timeout_s: float) -> Self:
        """A Qdrant server: `http(s)://` by REST, `grpc(s)://` by gRPC; the URL's password is the API key."""
        parts = urlsplit(url)
        secure, by_grpc = parts.scheme in ("https", "grpcs"), parts.scheme.startswith("grpc")
        port = parts.port or (6334 if by_grpc else 6333)
        where = f"{parts.scheme}://{parts.hostname}:{port}"

        def opened() -> tuple[Any, Any]:
            from qdrant_client import QdrantClient, models  # noqa: PLC0415

            ports = {"grpc_port": port} if by_grpc else {"port": port}
            key = unquote(parts.password) if parts.password else None
            told: dict[str, Any] = {"host": parts.hostname, "https": secure, "api_key": key, **ports}
            client = QdrantClient(**told, prefer_grpc=by_grpc, timeout=int(timeout_s), check_compatibility=False)
            return client, models

        return await cls._open(opened, ThreadPoolExecutor(THREADS, thread_name_prefix="vectors"), where=where)

    @classmethod
    async def _open(cls, opened: Callable[[], tuple[Any, Any]], threads: ThreadPoolExecutor, *, where: str) -> Self:
        try:
            client, models = await asyncio.get_running_loop().run_in_executor(threads, opened)
        except Exception as cause:
            threads.shutdown(wait=False)
            raise _unavailable(where, cause) from cause
        return cls(client, models, threads, where=where)

    async def create(self, name: str, *, dimension: int, settings: IndexSettings) -> None:
        """See the port."""
        await self._ask(lambda: self._create(name, dimension, settings))

    async def upsert(self, name: str, points: Sequence[Point]) -> None:
        """See the port."""
        await self._ask(lambda: self._upsert(name, points))

    async def delete(self, name: str, picture_ids: Sequence[str]) -> None:
        """See the port."""
        m = self._models

        def work() -> None:
            if self._dimension(name) is not None:
                selector = m.PointIdsList(points=[point_id(id_) for id_ in picture_ids])
                self._client.delete(name, points_selector=selector)

        if picture_ids:
            await self._ask(work)

    async def vectors(self, name: str, picture_ids: Sequence[str]) -> Mapping[str, bytes]:
        """See the port."""

        def work() -> dict[str, bytes]:
            if self._dimension(name) is None:
                return {}
            ids = [point_id(id_) for id_ in picture_ids]
            found = self._client.retrieve(name, ids, with_payload=["id"], with_vectors=True)
            return {(one.payload or {})["id"]: np.asarray(one.vector, "<f4").tobytes() for one in found}

        return await self._ask(work)

    async def search(self, name: str, question: Question) -> list[Hit]:
        """See the port."""
        return await self._ask(lambda: self._search(name, question))

    async def count(self, name: str) -> int:
        """See the port."""
        return await self._ask(lambda: 0 if self._dimension(name) is None else self._client.count(name).count)

    async def ids(self, name: str, *, after: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
        """See the port; `after` is what the page before told."""

        def work() -> tuple[tuple[str, ...], str | None]:
            if self._dimension(name) is None:
                return (), None
            found, following = self._client.scroll(name, limit=limit, offset=after, with_payload=["id"])
            told = tuple((one.payload or {})["id"] for one in found)
            return told, None if following is None else str(following)

        return await self._ask(work)

    async def switch(self, alias: str, name: str) -> None:
        """See the port."""
        m = self._models

        def work() -> None:
            standing = {one.alias_name for one in self._client.get_aliases().aliases}
            made = m.CreateAliasOperation(create_alias=m.CreateAlias(collection_name=name, alias_name=alias))
            gone = m.DeleteAliasOperation(delete_alias=m.DeleteAlias(alias_name=alias))
            steps = [gone, made] if alias in standing else [made]
            self._client.update_collection_aliases(change_aliases_operations=steps)
            self._dimensions.pop(alias, None)

        await self._ask(work)

    async def standing(self) -> Mapping[str, str]:
        """See the port."""
        return await self._ask(
            lambda: {one.alias_name: one.collection_name for one in self._client.get_aliases().aliases}
        )

    async def names(self) -> tuple[str, ...]:
        """See the port."""
        return await self._ask(lambda: tuple(sorted(one.name for one in self._client.get_collections().collections)))

    async def drop(self, name: str) -> None:
        """See the port."""

        def work() -> None:
            if self._client.collection_exists(name):
                self._client.delete_collection(name)
            self._dimensions.clear()  # aliases of it are gone as well

        await self._ask(work)

    async def ping(self) -> float:
        """See the port."""
        start = time.perf_counter()
        await self._ask(self._client.get_collections)
        return (time.perf_counter() - start) * 1e3

    async def close(self) -> None:
        """Idempotent; what was asked before is done."""
        if not self._threads._shutdown:
            await self._ask(self._client.close)
            self._threads.shutdown(wait=False)

    async def _ask(self, work: Callable[[], T]) -> T:
        """The work on a thread; foreign failures become ours."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ModelMoraError:
            raise
        except Exception as cause:
            raise _unavailable(self._where, cause) from cause

    def _create(self, name: str, dimension: int, settings: IndexSettings) -> None:
        there = self._dimension(name)
        if there is None:
            self._client.create_collection(name, **created_with(self._models, dimension, settings))
            self._index_payload(name, settings)
            self._dimensions[name] = dimension
        elif there != dimension:
            said = f"the index {name} is of {there} dimensions"
            raise Conflict(said, field="dimension", found=str(dimension), expected=str(there))

    def _index_payload(self, name: str, settings: IndexSettings) -> None:
        """A folder has no payload indexes: it compares each."""
        if self._local:
            return
        kinds = self._models.PayloadSchemaType
        fields = {"tags": kinds.KEYWORD, SEQ: kinds.INTEGER, "created_at": kinds.DATETIME}
        fields |= {f"metadata.{key}": kinds.KEYWORD for key in settings.payload}
        for field, kind in fields.items():
            self._client.create_payload_index(name, field, field_schema=kind)

    def _upsert(self, name: str, points: Sequence[Point]) -> None:
        dimension = self._dimension(name)
        if dimension is None:
            raise ModelNotFound(f"there is no index {name}", field="index", found=name)
        m, ordered = self._models, sorted(points, key=lambda point: point.provenance.seq)
        for seq, group in groupby(ordered, key=lambda point: point.provenance.seq):
            told = [
                m.PointStruct(
                    id=point_id(point.provenance.picture_id),
                    vector=numbers(point.vector, dimension=dimension, name=name),
                    payload=payload_of(point),
                )
                for point in group
            ]
            self._client.upsert(name, told, update_filter=self._filters.not_newer(seq))
        self._warn(name)

    def _warn(self, name: str) -> None:
        if self._local and name not in self._warned and self._client.count(name).count >= MANY:
            self._warned.add(name)
            log.warning("local_vectors_large", index=name, points=MANY, remedy="MODELMORA_VECTORS_URL: a Qdrant server")

    def _search(self, name: str, question: Question) -> list[Hit]:
        dimension = self._dimension(name)
        if dimension is None:
            return []
        m = self._models
        asked: dict[str, Any] = {
            "query": numbers(question.vector, dimension=dimension, name=name),
            "query_filter": self._filters.of(question.filter, exclude=question.exclude),
            "score_threshold": question.score_threshold,
            "search_params": m.SearchParams(exact=True) if question.exact and not self._local else None,
            "with_payload": True,
        }
        if question.group_by is not None:
            return self._groups(name, asked, question)
        found = self._client.query_points(name, **asked, limit=question.limit, offset=question.offset).points
        return _ordered([hit_of(one.payload or {}, one.score) for one in found])

    def _groups(self, name: str, asked: dict[str, Any], question: Question) -> list[Hit]:
        key = f"metadata.{question.group_by}"
        asked |= {"limit": question.limit, "group_size": question.group_size}
        groups = self._client.query_points_groups(name, group_by=key, **asked).groups
        return [
            hit
            for group in groups
            for hit in _ordered([hit_of(one.payload or {}, one.score, group.id) for one in group.hits])
        ]

    def _dimension(self, name: str) -> int | None:
        """Of an index or an alias; None where there is none. What was seen once is remembered while it stands."""
        if name in self._dimensions and self._client.collection_exists(name):
            return self._dimensions[name]
        standing = {one.alias_name: one.collection_name for one in self._client.get_aliases().aliases}
        if not self._client.collection_exists(standing.get(name, name)):
            return None
        params = self._client.get_collection(standing.get(name, name)).config.params.vectors
        size = int(params.size)  # type: ignore[union-attr] # ours have one vector a point
        self._dimensions[name] = size
        return size


def created_with(models: Any, dimension: int, settings: IndexSettings) -> dict[str, Any]:
    """What a collection is created with."""
    told: dict[str, Any] = {
        "vectors_config": models.VectorParams(
            size=dimension, distance=models.Distance.COSINE, on_disk=settings.on_disk or None
        )
    }
    if settings.m is not None or settings.ef_construct is not None:
        told["hnsw_config"] = models.HnswConfigDiff(m=settings.m, ef_construct=settings.ef_construct)
    if settings.quantization == "int8":
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=settings.always_ram)
        told["quantization_config"] = models.ScalarQuantization(scalar=scalar)
    if settings.on_disk:
        told["on_disk_payload"] = True
    return told


def _ordered(hits: list[Hit]) -> list[Hit]:
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def _unavailable(where: str, cause: Exception) -> DependencyUnavailable:
    reason = str(cause).splitlines()[0][:300] if str(cause) else type(cause).__name__
    said = f"the vector store {where} does not answer: {reason}; MODELMORA_VECTORS_URL names it"
    return DependencyUnavailable(said, retry_after_s=1.0)
