"""From what a server answered to outcomes, on either wire: nothing missing, nothing taken on trust."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from modelmora.client.embedding import Embedding
from modelmora.domain.inference import Timings
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import InternalError, ModelMoraError, from_code

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one response says of all its items; `server_timing` is the header's text."""

    model: str
    version: str
    server_timing: str = ""

    @property
    def told(self) -> dict[str, Any]:
        """What every result has of it, as keyword arguments: model, version, timings, total_ms."""
        stages = parse_server_timing(self.server_timing)
        timings = Timings(
            queue_ms=stages.get("queue", 0.0),
            preprocess_ms=stages.get("preprocess", 0.0),
            inference_ms=stages.get("inference", 0.0),
        )
        return {
            "model": self.model,
            "version": self.version,
            "timings": timings,
            "total_ms": stages.get("total", 0.0),
        }

    def embedding(self, data: bytes, *, dimension: int) -> Outcome[Embedding]:
        """`dimension` is what the response declares; a vector of another size is the server's defect."""
        if not data or len(data) != 4 * dimension:
            return Failed(
                InternalError(
                    f"{self.model}@{self.version} declared {dimension} float32 components and sent {len(data)} bytes",
                    field="embedding",
                    found=f"{len(data)} bytes",
                    expected=f"{4 * dimension} bytes",
                )
            )
        return Ok(Embedding(data=data, **self.told))


def item_error(
    code: str,
    detail: str,
    *,
    field: str | None = None,
    found: str | None = None,
    expected: str | None = None,
    retry_after_s: float | None = None,
) -> ModelMoraError:
    """The error one item of an answer carries; empty strings (proto's defaults) are absent values."""
    error = from_code(code, detail or code, retry_after_s=retry_after_s or None)
    error.field, error.found, error.expected = field or None, found or None, expected or None
    return error


def error_from(told: Any) -> ModelMoraError:
    """The error that a line or an item of JSON tells; raises InternalError where it is of another shape."""
    try:
        return item_error(
            str(told["code"]),
            str(told.get("detail") or ""),
            field=told.get("field"),
            found=told.get("found"),
            expected=told.get("expected"),
            retry_after_s=float(told.get("retry_after_s") or 0.0),
        )
    except (AttributeError, LookupError, TypeError, ValueError) as cause:
        raise InternalError(f"the server told an error of another shape than promised: {cause!r}") from cause


@contextmanager
def promised(what: str) -> Iterator[None]:
    """What cannot be read is the server's defect: raises InternalError."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as cause:
        raise InternalError(f"the server sent {what} of another shape than promised: {cause!r}") from cause


def arrange(count: int, answered: Iterable[tuple[int, Outcome[T]]]) -> list[Outcome[T]]:
    """The outcomes by index; an item the server forgot fails, one it made up is dropped."""
    by_index = dict(answered)
    return [by_index.get(index) or Failed(InternalError(f"the server left out item {index}")) for index in range(count)]


def lost(count: int, error: ModelMoraError) -> list[Outcome[Any]]:
    """The whole request failed: every item for the same reason."""
    return [Failed(error)] * count


def parse_server_timing(header: str) -> dict[str, float]:
    """`queue;dur=1.5, total;dur=9` as milliseconds by stage; what cannot be read is left out."""
    stages: dict[str, float] = {}
    for entry in header.split(","):
        name, _, duration = entry.partition(";dur=")
        try:
            stages[name.strip()] = float(duration.partition(";")[0])
        except ValueError:
            continue
    return stages
