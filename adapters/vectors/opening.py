"""How a folder of vectors is opened, and a server reached: on a thread, since the library takes a second to import."""

from __future__ import annotations

import fcntl
import math
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog

from modelmora.errors import DependencyUnavailable

log = structlog.get_logger(__name__)

REST_PORT, GRPC_PORT = 6333, 6334
_LOCK = ".lock"
"""What Qdrant's local mode locks, by flock."""
_TOLD_BY_US = ("Local mode is not recommended", "Api key is used with an insecure connection")


def open_folder(folder: Path) -> tuple[Any, Any]:
    """The client and its models; raises DependencyUnavailable where another process has the folder."""
    from qdrant_client import QdrantClient, models  # noqa: PLC0415

    _keep_quiet()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_taken(folder)
    return QdrantClient(path=str(folder)), models


def open_server(url: str, *, timeout_s: float) -> tuple[Any, Any]:
    """The client and its models; nothing is asked of the server yet."""
    from qdrant_client import QdrantClient, models  # noqa: PLC0415

    _keep_quiet()
    parts, where = urlsplit(url), named(url)
    by_grpc, secure = parts.scheme.startswith("grpc"), parts.scheme.endswith("s")
    key = unquote(parts.password) if parts.password else None
    if key and not secure:
        log.warning("vectors_key_in_clear", server=where, remedy="MODELMORA_VECTORS_URL: https:// or grpcs://")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    client = QdrantClient(
        host=host,
        port=REST_PORT if by_grpc else _port(url),
        grpc_port=_port(url) if by_grpc else GRPC_PORT,
        prefer_grpc=by_grpc,
        https=secure,
        api_key=key,
        timeout=math.ceil(timeout_s),
        check_compatibility=False,  # it asks the server, which may come later than we do
    )
    return client, models


def named(url: str) -> str:
    """A server without its key, as errors and logs name it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{_port(url)}"


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (GRPC_PORT if parts.scheme.startswith("grpc") else REST_PORT)


def _refuse_taken(folder: Path) -> None:
    """The library reads every point before it finds that the folder is taken."""
    with (folder / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            said = f"the vectors in {folder} are open in another process, and one alone may have them: stop it, or set "
            raise DependencyUnavailable(said + "MODELMORA_VECTORS_URL to another folder or a Qdrant server") from cause


def _keep_quiet() -> None:
    """Of what the library warns about on stderr, what the log has already."""
    for message in _TOLD_BY_US:
        warnings.filterwarnings("ignore", message=message)
