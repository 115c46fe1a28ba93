"""The spans of items in a runner, of the batches that they share, and of the loads that they wait for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from modelmora import tracing
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Outcome, fault_of
from modelmora.errors import InternalError, ModelMoraError

T = TypeVar("T")


def begin_stay(trace: str, spec: ModelSpec, task: Task) -> Span:
    """From when an item came until it is answered; `trace` is the traceparent that it came with."""
    if not trace:
        return INVALID_SPAN
    span = tracing.begin(f"run {task}", parent=tracing.context_of(trace), kind=SpanKind.SERVER)
    span.set_attributes({"modelmora.model": spec.name, "modelmora.version": spec.version, "modelmora.task": task})
    return span


def end_stay(span: Span, outcome: Outcome[T]) -> None:
    """Answered."""
    if span is not INVALID_SPAN:
        tracing.end(span, failure=fault_of(outcome))


def begin_batch(spans: Iterable[Span], spec: ModelSpec, *, items: int, rows: int, threads: int) -> Span:
    """What is computed once for those items."""
    if not tracing.on():
        return INVALID_SPAN
    span = tracing.begin_joint("batch", [*spans])
    if span is not INVALID_SPAN:
        span.set_attributes(
            {
                "modelmora.model": spec.name,
                "modelmora.version": spec.version,
                "modelmora.batch.items": items,
                "modelmora.batch.rows": rows,
                "modelmora.batch.threads": threads,
            }
        )
    return span


def end_batch(span: Span, outcomes: Iterable[Outcome[T]]) -> None:
    """Failed where one of its items did, for no fault of the item's."""
    if span is not INVALID_SPAN:
        tracing.end(span, failure=next(filter(None, map(fault_of, outcomes)), ""))


@asynccontextmanager
async def waited_for(lease: AbstractAsyncContextManager[T], spans: Iterable[Span], spec: ModelSpec) -> AsyncIterator[T]:
    """The lease; how long it took is a span of those items."""
    span = tracing.begin_joint("load", [*spans]) if tracing.on() else INVALID_SPAN
    span.set_attributes({"modelmora.model": spec.name, "modelmora.version": spec.version})
    held = False
    try:
        async with lease as value:
            held = True
            tracing.end(span)
            yield value
    except Exception as cause:
        if not held:
            tracing.end(span, failure=cause.code if isinstance(cause, ModelMoraError) else InternalError.code)
        raise
