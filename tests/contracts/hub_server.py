"""A small hub over HTTP on this machine, with the few endpoints that `huggingface_hub` asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = hashlib.sha1(b"the only commit", usedforsecurity=False).hexdigest()


@dataclass
class HubServer:
    """Repositories by name, each a mapping of file names to bytes; what was asked is kept in `asked`."""

    repositories: Mapping[str, Mapping[str, bytes]]
    licence: str = "mit"
    gated: frozenset[str] = frozenset()
    broken: bool = False
    asked: list[str] = field(default_factory=list)
    url: str = ""

    @contextmanager
    def serving(self) -> Iterator[HubServer]:
        """Answers on a free port of 127.0.0.1."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
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

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request."""
        parts = unquote(path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if api else parts[:2])
        files, revision = self.repositories.get(repository), parts[5] if api else parts[3]
        if self.broken:
            return 500, {}, b"out of order"
        if files is None:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if repository in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        if revision not in {"main", COMMIT}:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        return self._info(repository, files) if api else self._file(files, "/".join(parts[4:]))

    def _info(self, repository: str, files: Mapping[str, bytes]) -> tuple[int, dict[str, str], bytes]:
        siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        info = {
            "id": repository,
            "sha": COMMIT,
            "siblings": siblings,
            "cardData": {"license": self.licence},
            "tags": [],
        }
        return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()

    def _file(self, files: Mapping[str, bytes], name: str) -> tuple[int, dict[str, str], bytes]:
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        etag = hashlib.sha256(files[name]).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, files[name]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                path = urlsplit(self.path).path
                hub.asked.append(f"{self.command} {path}")
                status, headers, body = hub.answer(path)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_GET = do_HEAD

            def log_message(self, *_: object) -> None:
                """Nothing: `asked` tells."""

        return Handler
