"""The values that travel along one request, and the record left of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Outcome

Priority = Literal["interactive", "bulk"]


@dataclass(frozen=True, slots=True)
class Image:
    """The bytes of a picture file, as they came."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Text:
    """A text, as it came."""

    text: str


Content: TypeAlias = Image | Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Who asks, until when, how urgently: travels with every item, never in a context variable.

    `deadline` is on the clock of `time.monotonic()`, in seconds; `trace` is W3C's traceparent, empty where it is
    not written.
    """

    request_id: str
    deadline: float
    priority: Priority = "interactive"
    truncate: bool = False
    tenant: str = "default"
    face: Literal["http", "grpc", "python"] = "python"
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Vector:
    """A little-endian float32 vector, L2-normalised; `data` holds 4 bytes a component."""

    data: bytes

    @property
    def dimension(self) -> int:
        return len(self.data) // 4


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds spent on an item, by stage."""

    queue_ms: float = 0.0
    preprocess_ms: float = 0.0
    inference_ms: float = 0.0


class Timed(Protocol):
    """A result that says what it cost."""

    @property
    def timings(self) -> Timings: ...


@dataclass(frozen=True, slots=True)
class Embedded:
    """One embedding and what it cost."""

    vector: Vector
    timings: Timings = Timings()
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """The one record of an inference: what was asked of which version, and one outcome per item."""

    call: Call
    model: ModelSpec
    task: Task
    items: int
    total_ms: float
    outcomes: Sequence[Outcome[Timed]] = field(repr=False)
