"""Vectors in a folder that another process has open: its side, which shares them, and the side that asks."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import structlog

from adapters.vectors import owner_messages as m
from modelmora.domain.pictures.search import Hit, Point, Question
from modelmora.domain.pictures.spaces import IndexSettings
from modelmora.errors import DependencyUnavailable, ModelMoraError, unexpected
from modelmora.ports import Vectors

log = structlog.get_logger(__name__)

LONGEST = 103
"""The bytes of a Unix socket's path on every system."""
_OPTIONS = (
    ("grpc.max_receive_message_length", m.MOST_BYTES),
    ("grpc.max_send_message_length", m.MOST_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
)


def socket_of(folder: Path) -> Path:
    """Where the owner of a folder of vectors listens: beside it, or by its digest where that path is too long."""
    beside = folder.parent / f"{folder.name}.sock"
    if len(os.fsencode(beside)) <= LONGEST:
        return beside
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:24]
    return _of_this_user() / f"{digest}.sock"


class SharedVectors:
    """Answers other processes of the same user over a socket that nobody else may open."""

    def __init__(self, vectors: Vectors, socket: Path) -> None:
        self._vectors = vectors
        self._socket = socket
        self._server: grpc.aio.Server | None = None
        self._does: Mapping[str, Callable[[Any], Awaitable[m.Answer]]] = {
            "create": self._create,
            "upsert": self._upsert,
            "delete": self._delete,
            "vectors": self._get,
            "points": self._points,
            "search": self._search,
            "count": self._count,
            "ids": self._ids,
            "switch": self._switch,
            "standing": self._standing,
            "names": self._names,
            "ping": self._ping,
            "drop": self._drop,
        }

    async def start(self) -> None:
        """Raises DependencyUnavailable where the socket cannot be made."""
        try:
            self._socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(self._socket.parent)
            self._socket.unlink(missing_ok=True)  # left by an owner that was killed: the folder's lock says that it is
        except OSError as cause:
            raise DependencyUnavailable(f"{self._socket} cannot be made: {cause.strerror}") from cause
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._answer)
        service, _, method = m.METHOD.lstrip("/").partition("/")
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        mask = os.umask(0o177)
        try:
            server.add_insecure_port(f"unix:{self._socket}")
            await server.start()
        except RuntimeError as cause:
            raise DependencyUnavailable(f"{self._socket} cannot be listened on: {cause}") from cause
        finally:
            os.umask(mask)
        self._server = server

    async def stop(self) -> None:
        """Finishes what runs, 2 s at most; idempotent."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(2.0)
            self._socket.unlink(missing_ok=True)

    async def _answer(self, data: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            asked = m.asked(data)
            return m.packed(await self._does[asked.kind](asked))
        except ModelMoraError as error:
            return m.packed(m.failed(error))
        except Exception as cause:
            log.error("shared_vectors_failed", exc_info=cause)
            return m.packed(m.failed(unexpected()))

    async def _create(self, asked: m.Create) -> m.Answer:
        await self._vectors.create(asked.name, dimension=asked.dimension, settings=asked.settings)
        return m.Answer()

    async def _upsert(self, asked: m.Upsert) -> m.Answer:
        await self._vectors.upsert(asked.name, asked.points)
        return m.Answer()

    async def _delete(self, asked: m.Delete) -> m.Answer:
        await self._vectors.delete(asked.name, asked.picture_ids)
        return m.Answer()

    async def _get(self, asked: m.Get) -> m.Answer:
        return m.Answer(vectors=await self._vectors.vectors(asked.name, asked.picture_ids))

    async def _points(self, asked: m.Points) -> m.Answer:
        return m.Answer(points=await self._vectors.points(asked.name, asked.picture_ids))

    async def _search(self, asked: m.Search) -> m.Answer:
        return m.Answer(hits=await self._vectors.search(asked.name, asked.question))

    async def _count(self, asked: m.Count) -> m.Answer:
        return m.Answer(count=await self._vectors.count(asked.name))

    async def _ids(self, asked: m.Ids) -> m.Answer:
        names, following = await self._vectors.ids(asked.name, after=asked.after, limit=asked.limit)
        return m.Answer(names=names, following=following)

    async def _switch(self, asked: m.Switch) -> m.Answer:
        await self._vectors.switch(asked.alias, asked.name)
        return m.Answer()

    async def _standing(self, _: m.Plain) -> m.Answer:
        return m.Answer(standing=await self._vectors.standing())

    async def _names(self, _: m.Plain) -> m.Answer:
        return m.Answer(names=await self._vectors.names())

    async def _ping(self, _: m.Plain) -> m.Answer:
        await self._vectors.ping()
        return m.Answer()

    async def _drop(self, asked: m.Drop) -> m.Answer:
        await self._vectors.drop(asked.name)
        return m.Answer()


class OwnerVectors:
    """The port `Vectors` asked of the owner; it reconnects by itself."""

    def __init__(self, socket: Path, *, timeout_s: float = 10.0) -> None:
        self._socket = socket
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", options=_OPTIONS)
        self._call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(m.METHOD)

    async def create(self, name: str, *, dimension: int, settings: IndexSettings) -> None:
        """See the port."""
        await self._ask(m.Create(name=name, dimension=dimension, settings=settings))

    async def upsert(self, name: str, points: Sequence[Point]) -> None:
        """See the port."""
        await self._ask(m.Upsert(name=name, points=list(points)))

    async def delete(self, name: str, picture_ids: Sequence[str]) -> None:
        """See the port."""
        await self._ask(m.Delete(name=name, picture_ids=list(picture_ids)))

    async def vectors(self, name: str, picture_ids: Sequence[str]) -> Mapping[str, bytes]:
        """See the port."""
        return (await self._ask(m.Get(name=name, picture_ids=list(picture_ids)))).vectors or {}

    async def points(self, name: str, picture_ids: Sequence[str]) -> list[Point]:
        """See the port."""
        return (await self._ask(m.Points(name=name, picture_ids=list(picture_ids)))).points or []

    async def search(self, name: str, question: Question) -> list[Hit]:
        """See the port."""
        return (await self._ask(m.Search(name=name, question=question))).hits or []

    async def count(self, name: str) -> int:
        """See the port."""
        return (await self._ask(m.Count(name=name))).count

    async def ids(self, name: str, *, after: str | None, limit: int) -> tuple[tuple[str, ...], str | None]:
        """See the port."""
        answer = await self._ask(m.Ids(name=name, after=after, limit=limit))
        return answer.names, answer.following

    async def switch(self, alias: str, name: str) -> None:
        """See the port."""
        await self._ask(m.Switch(alias=alias, name=name))

    async def standing(self) -> Mapping[str, str]:
        """See the port."""
        return (await self._ask(m.Plain(kind="standing"))).standing or {}

    async def names(self) -> tuple[str, ...]:
        """See the port."""
        return (await self._ask(m.Plain(kind="names"))).names

    async def drop(self, name: str) -> None:
        """See the port."""
        await self._ask(m.Drop(name=name))

    async def ping(self) -> float:
        """See the port."""
        start = time.perf_counter()
        await self._ask(m.Plain(kind="ping"))
        return (time.perf_counter() - start) * 1e3

    async def close(self) -> None:
        """Idempotent."""
        await self._channel.close()

    async def _ask(self, asked: m.Message) -> m.Answer:
        try:
            data = await self._call(m.packed(asked), timeout=self._timeout_s)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as cause:
            reason = cause.details() if isinstance(cause, grpc.aio.AioRpcError) else cause
            said = f"the API worker that has the vectors does not answer on {self._socket}: {reason}"
            raise DependencyUnavailable(f"{said}; MODELMORA_VECTORS_URL names them", retry_after_s=1.0) from cause
        answer = m.Answer.model_validate_json(data)
        if answer.error is not None:
            raise m.raised(answer.error)
        return answer


def _of_this_user() -> Path:
    return Path(tempfile.gettempdir()) / f"modelmora-{os.getuid()}"


def _check_private(folder: Path) -> None:
    """Anybody may make folders among the temporary ones, and would own what is in theirs."""
    there = folder.lstat()
    if folder == _of_this_user() and (there.st_uid != os.getuid() or there.st_mode & 0o077):
        raise DependencyUnavailable(f"{folder} belongs to somebody else, or is open to others: remove it")
