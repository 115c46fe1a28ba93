"""What both ends of Kafka share: where it is, and its failures as ours."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from aiokafka.errors import KafkaError

from modelmora.errors import DependencyUnavailable

REQUEST_MS = 10_000


@dataclass(frozen=True, slots=True)
class Cluster:
    """Brokers as `host:port,host:port`, and who asks; the password is shown to nobody."""

    brokers: str
    secure: bool = False
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str) -> Cluster:
        """Of `kafka://user:password@host:port,host:port`; `kafka+ssl://` is encrypted."""
        scheme, _, rest = url.partition("://")
        who, _, brokers = rest.rstrip("/").rpartition("@")
        told = urlsplit(f"//{who}@x") if who else urlsplit("//x")
        return cls(brokers, scheme == "kafka+ssl", unquote(told.username or ""), unquote(told.password or ""))

    def options(self) -> dict[str, Any]:
        """As every client of the library takes them."""
        told: dict[str, Any] = {"bootstrap_servers": self.brokers, "request_timeout_ms": REQUEST_MS}
        if self.secure:
            told["ssl_context"] = ssl.create_default_context()
        protocol = ("SASL_" if self.user else "") + ("SSL" if self.secure else "PLAINTEXT")
        if self.user:
            told |= {"sasl_mechanism": "PLAIN", "sasl_plain_username": self.user, "sasl_plain_password": self.password}
        return told | {"security_protocol": protocol}

    def unavailable(self, cause: BaseException) -> DependencyUnavailable:
        """What its failures become."""
        why = str(cause) or type(cause).__name__
        said = f"Kafka at {self.brokers} does not do what it is asked: {why}; MODELMORA_EVENTS_URL names it"
        return DependencyUnavailable(said, retry_after_s=1.0)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """A block in which the library's errors become ours."""
        try:
            yield
        except (KafkaError, OSError, TimeoutError) as cause:
            raise self.unavailable(cause) from cause
