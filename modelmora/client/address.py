"""Where a server is, read from one URL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from modelmora.errors import ValidationFailed

DEFAULT_URL = "grpc://127.0.0.1:50051"
HTTP_PORT = 3000
_SCHEMES: dict[str, tuple[Literal["grpc", "http"], bool, int]] = {
    "grpc": ("grpc", False, 50051),
    "grpcs": ("grpc", True, 50051),
    "http": ("http", False, 80),
    "https": ("http", True, 443),
}


@dataclass(frozen=True, slots=True)
class Address:
    """`grpc[s]://host[:port]` or `http[s]://host[:port][/path]`; `host` is without brackets."""

    wire: Literal["grpc", "http"]
    tls: bool
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises ValidationFailed on any other URL."""
        try:
            parts = urlsplit(url)
            wire, tls, port = _SCHEMES[parts.scheme]
            address = cls(wire, tls, parts.hostname or "", parts.port or port, parts.path.rstrip("/"))
        except (KeyError, ValueError) as cause:
            raise _refused(url) from cause
        if not address.host or (wire == "grpc" and address.path):
            raise _refused(url)
        return address

    @property
    def target(self) -> str:
        """`host:port`, as gRPC wants it."""
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def control_url(self) -> str:
        """Where the control plane is unless told otherwise: here, or on the same host's HTTP port."""
        scheme = "https" if self.tls else "http"
        port = self.port if self.wire == "http" else HTTP_PORT
        return f"{scheme}://{_bracketed(self.host)}:{port}{self.path}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _refused(url: str) -> ValidationFailed:
    return ValidationFailed(
        f"{url!r} is not the URL of a server",
        field="url",
        found=url,
        expected="grpc://host:port, grpcs://host:port, http://host:port or https://host:port",
    )
