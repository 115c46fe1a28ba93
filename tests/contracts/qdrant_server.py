"""Qdrant's REST over its library's local mode: what stands in for a server where there is none.

It holds how we ask, and what we make of answers and failures; what a server's index does with it, a real one shows
(MODELMORA_TEST_QDRANT_URL).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models

Call: TypeAlias = Callable[[str, bytes], object]


class QdrantServer:
    """`asked` keeps each request; `hook` is called with its method and path before it is answered, and may answer."""

    def __init__(self) -> None:
        self._client = QdrantClient(":memory:")
        self._lock = threading.Lock()
        self.asked: list[tuple[str, str, Any]] = []
        self.hook: Callable[[str, str], tuple[int, object] | None] = lambda *_: None
        self.url = ""
        name = r"/collections/([^/]+)"
        self._routes: Mapping[tuple[str, str], Call] = {
            ("GET", r"/collections"): lambda *_: self._client.get_collections(),
            ("GET", r"/aliases"): lambda *_: self._client.get_aliases(),
            ("POST", r"/collections/aliases"): self._aliases,
            ("GET", name): lambda of, _: self._client.get_collection(of),
            ("PUT", name): self._create,
            ("DELETE", name): lambda of, _: self._client.delete_collection(of),
            ("PUT", rf"{name}/index"): lambda *_: _done(),
            ("PUT", rf"{name}/points"): self._upsert,
            ("POST", rf"{name}/points"): self._retrieve,
            ("POST", rf"{name}/points/delete"): self._delete,
            ("POST", rf"{name}/points/count"): lambda of, _: self._client.count(of),
            ("POST", rf"{name}/points/scroll"): self._scroll,
            ("POST", rf"{name}/points/query"): self._query,
            ("POST", rf"{name}/points/query/groups"): self._groups,
        }

    @contextmanager
    def serving(self) -> Iterator[QdrantServer]:
        """Answers on a free port of 127.0.0.1."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """Status and result of one request."""
        self.asked.append((method, path, json.loads(body) if body else None))
        told = self.hook(method, path)
        if told is not None:
            return told
        for (verb, pattern), call in self._routes.items():
            found = re.fullmatch(pattern, path) if verb == method else None
            if found is not None:
                return self._called(call, found[1] if found.groups() else "", body)
        return 404, "no such path"

    def bodies(self, method: str, end: str) -> list[Any]:
        """What was sent to paths with that end."""
        return [body for verb, path, body in self.asked if verb == method and path.endswith(end)]

    def _called(self, call: Call, name: str, body: bytes) -> tuple[int, object]:
        try:
            with self._lock:
                return 200, call(name, body)
        except ValueError as error:
            missing = str(error).startswith("Collection") and "not found" in str(error)
            if missing:
                return 404, f"Not found: Collection `{name}` doesn't exist!"
            return (409 if "already exists" in str(error) else 400), str(error)

    def _create(self, name: str, body: bytes) -> object:
        asked = models.CreateCollection.model_validate_json(body)
        return self._client.create_collection(name, vectors_config=asked.vectors)

    def _aliases(self, _: str, body: bytes) -> object:
        asked = models.ChangeAliasesOperation.model_validate_json(body)
        return self._client.update_collection_aliases(change_aliases_operations=asked.actions)

    def _upsert(self, name: str, body: bytes) -> object:
        asked = models.PointsList.model_validate_json(body)
        self._client.upsert(name, asked.points, update_filter=asked.update_filter)
        return _done()

    def _delete(self, name: str, body: bytes) -> object:
        self._client.delete(name, points_selector=models.PointIdsList.model_validate_json(body))
        return _done()

    def _retrieve(self, name: str, body: bytes) -> object:
        asked = models.PointRequest.model_validate_json(body)
        return self._client.retrieve(
            name, asked.ids, with_payload=asked.with_payload or False, with_vectors=asked.with_vector or False
        )

    def _scroll(self, name: str, body: bytes) -> object:
        asked = models.ScrollRequest.model_validate_json(body)
        points, following = self._client.scroll(
            name, limit=asked.limit or 10, offset=asked.offset, with_payload=asked.with_payload or False
        )
        return {"points": points, "next_page_offset": following}

    def _query(self, name: str, body: bytes) -> object:
        asked = models.QueryRequest.model_validate_json(body)
        return self._client.query_points(name, **_question(asked), offset=asked.offset)

    def _groups(self, name: str, body: bytes) -> object:
        asked = models.QueryGroupsRequest.model_validate_json(body)
        more: dict[str, Any] = {"group_by": asked.group_by, "group_size": asked.group_size or 3}
        return self._client.query_points_groups(name, **_question(asked), **more)


def _question(asked: models.QueryRequest | models.QueryGroupsRequest) -> dict[str, Any]:
    return {
        "query": asked.query,
        "query_filter": asked.filter,
        "score_threshold": asked.score_threshold,
        "limit": asked.limit or 10,
    }


def _done() -> object:
    return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


def _handler(server: QdrantServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, result = server.answer(self.command, urlsplit(self.path).path, body)
            told = {"result": result} if status == 200 else {"status": {"error": result}}
            data = TypeAdapter(dict[str, Any]).dump_json({"time": 0.0, "status": "ok", **told})
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_PUT = do_POST = do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing: `asked` tells."""

    return Handler
