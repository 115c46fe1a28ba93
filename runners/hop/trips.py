"""The span of one item's trip from an API worker to a runner worker and back."""

from __future__ import annotations

from typing import TypeVar

from opentelemetry.trace import INVALID_SPAN, SpanKind

from modelmora import tracing
from modelmora.domain.outcome import Outcome, fault_of
from modelmora.proto import runner_pb2 as pb

T = TypeVar("T")


class Trip:
    """From before it is prepared until it is answered. The work carries the trace on."""

    def __init__(self, trace: str, work: pb.Work) -> None:
        self._span = tracing.begin(work.task, parent=tracing.context_of(trace), kind=SpanKind.CLIENT)
        work.trace = tracing.traceparent(self._span)

    def prepared(self, spent_ms: float) -> None:
        """Decoded or tokenised."""
        self._span.set_attribute("modelmora.preprocess_ms", spent_ms)

    def end(self, outcome: Outcome[T]) -> Outcome[T]:
        """Answered."""
        tracing.end(self._span, failure=fault_of(outcome))
        return outcome


class _NoTrip(Trip):
    def __init__(self) -> None:
        self._span = INVALID_SPAN

    def end(self, outcome: Outcome[T]) -> Outcome[T]:
        return outcome


NO_TRIP: Trip = _NoTrip()
"""Of an item that nobody traces."""
