"""The hook that tells the request's span of its inference."""

from __future__ import annotations

from opentelemetry.trace import get_current_span

from modelmora import tracing
from modelmora.domain.inference import Inference
from modelmora.domain.outcome import fault_of


def note_inference(record: Inference) -> None:
    """For processes that trace: which version did what, and whether an item failed through no fault of its own."""
    span = get_current_span()
    failure = next(filter(None, map(fault_of, record.outcomes)), "")
    if tracing.is_written(span, failure):
        span.set_attribute("modelmora.model", record.model.name)
        span.set_attribute("modelmora.version", record.model.version)
        span.set_attribute("modelmora.task", record.task)
        span.set_attribute("modelmora.items", record.items)
    if failure:
        tracing.fail(span, failure)
