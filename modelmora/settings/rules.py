"""The rules between settings, each with the variables it looks at."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelmora.errors import Fault
from modelmora.settings.faults import wrong

if TYPE_CHECKING:
    from modelmora.settings.root import Settings


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A broken rule; pointless to tell when one of `variables` could not be read at all."""

    variables: frozenset[str]
    fault: Fault


def contradictions(settings: Settings) -> Iterator[Contradiction]:
    """What each setting allows, but not all together."""
    yield from _reachable_by_anyone(settings)
    http, grpc = "MODELMORA_HTTP_PORT", "MODELMORA_GRPC_PORT"
    if settings.http.port == settings.grpc.port:
        takes = f"another port than {http}, which is {settings.http.port}"
        yield Contradiction(frozenset({http, grpc}), wrong(grpc, str(settings.grpc.port), takes))
    usual, longest = "MODELMORA_LIMITS_TIMEOUT_MS", "MODELMORA_LIMITS_MAX_TIMEOUT_MS"
    if settings.limits.timeout_ms > settings.limits.max_timeout_ms:
        takes = f"at most {longest}, which is {settings.limits.max_timeout_ms}"
        yield Contradiction(frozenset({usual, longest}), wrong(usual, str(settings.limits.timeout_ms), takes))
    yield from _one_worker(settings)


def _one_worker(settings: Settings) -> Iterator[Contradiction]:
    """What lies in one process is not shared by several."""
    workers = "MODELMORA_API_WORKERS"
    alone = {
        "MODELMORA_VECTORS_URL": settings.vectors.url is None or settings.vectors.url.startswith("file:"),
        "MODELMORA_EVENTS_URL": settings.events.url == "memory://",
    }
    for name, own in alone.items():
        if own and settings.api.workers > 1:
            takes = f"1, or more with {name} naming a server (or null://): what is kept now is one worker's own"
            yield Contradiction(frozenset({workers, name}), wrong(workers, str(settings.api.workers), takes))


def _reachable_by_anyone(settings: Settings) -> Iterator[Contradiction]:
    """Beyond this machine nobody is served unidentified unless that was asked for."""
    consent = "MODELMORA_ALLOW_ANONYMOUS"
    takes = f"127.0.0.1, ::1 or localhost, or any other with {consent}=true: whoever reaches it may use the server"
    for name, host in (("MODELMORA_HTTP_HOST", settings.http.host), ("MODELMORA_GRPC_HOST", settings.grpc.host)):
        if not settings.allow_anonymous and not _is_loopback(host):
            yield Contradiction(frozenset({name, consent}), wrong(name, host, takes))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
