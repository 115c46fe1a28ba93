"""How the small servers of the client's tests behave: what they answer, and what they have in store."""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc

from modelmora.errors import InvalidInput, ModelMoraError, Overloaded

DIMENSION = 4
SERVER_TIMING = "queue;dur=1.5, preprocess;dur=2, inference;dur=30.25, total;dur=35"


def vector_of(content: bytes) -> bytes:
    """The embedding these servers give: four float32 components that depend on every byte."""
    return struct.pack("<4f", *(byte / 255 for byte in hashlib.sha256(content).digest()[:DIMENSION]))


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came in."""

    items: tuple[bytes, ...]
    headers: dict[str, str]
    truncate: bool = False
    peer: str = ""


@dataclass(slots=True)
class Script:
    """How a server behaves: `troubles` are used up one a request, then all is well; `bad` items always fail."""

    troubles: deque[ModelMoraError | Callable[[], None]] = field(default_factory=deque)
    bad: frozenset[bytes] = frozenset()
    declared: int = DIMENSION
    requests: list[Seen] = field(default_factory=list)
    before: Callable[[Seen], None] = lambda seen: None

    def meet(self, seen: Seen) -> None:
        """Notes the request, then raises what the script has in store for it."""
        self.requests.append(seen)
        self.before(seen)
        if self.troubles:
            trouble = self.troubles.popleft()
            if isinstance(trouble, ModelMoraError):
                raise trouble
            trouble()

    def answer(self, items: Sequence[bytes]) -> list[bytes | ModelMoraError]:
        return [
            InvalidInput("the picture is cut off", field="image", found="12 bytes", expected="a whole picture")
            if item in self.bad
            else vector_of(item)
            for item in items
        ]

    @property
    def embedded(self) -> list[bytes]:
        """Every item that came, over all requests."""
        return [item for seen in self.requests for item in seen.items]


def overloaded(times: int, *, retry_after_s: float | None = None) -> deque[ModelMoraError | Callable[[], None]]:
    return deque(Overloaded("the queue is full", retry_after_s=retry_after_s) for _ in range(times))


STATUS = {
    "invalid_input": (400, grpc.StatusCode.INVALID_ARGUMENT),
    "model_not_found": (404, grpc.StatusCode.NOT_FOUND),
    "rate_limited": (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    "overloaded": (503, grpc.StatusCode.UNAVAILABLE),
    "model_loading": (503, grpc.StatusCode.UNAVAILABLE),
    "dependency_unavailable": (503, grpc.StatusCode.UNAVAILABLE),
    "internal": (500, grpc.StatusCode.INTERNAL),
}
