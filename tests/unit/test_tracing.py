"""Spans: drawn by their trace or their parent, kept where they fail, joint where work is; none where nobody records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN, SpanKind, format_span_id, format_trace_id, get_current_span

from adapters.tracing.recorder import SdkRecorder
from modelmora import tracing
from modelmora.errors import DependencyUnavailable, Overloaded

TRACE = "0af7651916cd43dd8448eb211c80319c"
DRAWN, NOT_DRAWN = f"00-{TRACE}-b7ad6b7169203331-01", f"00-{TRACE}-b7ad6b7169203331-00"


class Written:
    """What was written, in the order in which it ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()

    def record(self, ratio: float) -> None:
        tracing.record(SdkRecorder(SimpleSpanProcessor(self.exporter), process="test", ratio=ratio))

    def all(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def names(self) -> list[str]:
        return [span.name for span in self.all()]


@pytest.fixture
def written() -> Iterator[Written]:
    yield Written()
    tracing.record(None)


def own_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return format_span_id(span.context.span_id)


def parent_id(span: ReadableSpan) -> str:
    return format_span_id(span.parent.span_id) if span.parent is not None else ""


def test_where_nobody_records_a_span_is_nothing_and_leads_nowhere() -> None:
    assert not tracing.on()
    span = tracing.begin("request", parent=tracing.context_of(DRAWN))
    assert span is INVALID_SPAN
    with tracing.current(span), tracing.child("part") as part:
        assert part is INVALID_SPAN
        assert tracing.here() == tracing.trace_id() == ""
    tracing.end(span, failure="internal")


def test_all_are_drawn_at_one_and_none_at_zero(written: Written) -> None:
    written.record(1.0)
    tracing.end(tracing.begin("drawn"))
    written.record(0.0)
    tracing.end(tracing.begin("not drawn"))
    assert written.names() == ["drawn"]


def test_about_the_share_is_drawn_that_was_asked_for(written: Written) -> None:
    written.record(0.25)
    for _ in range(2_000):
        tracing.end(tracing.begin("request"))
    assert 400 < len(written.all()) < 600


def test_a_caller_who_drew_is_followed_in_his_trace_whatever_the_ratio(written: Written) -> None:
    written.record(0.0)
    tracing.end(tracing.begin("request", parent=tracing.context_of(DRAWN), kind=SpanKind.SERVER))
    (span,) = written.all()
    assert span.context is not None
    assert format_trace_id(span.context.trace_id) == TRACE
    assert parent_id(span) == "b7ad6b7169203331"


def test_a_caller_who_did_not_draw_is_followed_too(written: Written) -> None:
    written.record(1.0)
    tracing.end(tracing.begin("request", parent=tracing.context_of(NOT_DRAWN)))
    assert written.all() == ()


def test_what_fails_is_written_though_nobody_drew_it(written: Written) -> None:
    written.record(0.0)
    before = time.time_ns()
    span = tracing.begin("POST", parent=tracing.context_of(NOT_DRAWN), kind=SpanKind.SERVER)
    told = tracing.traceparent(span)
    span.set_attribute("a", 1)
    span.update_name("POST /v1/embed/image")
    tracing.end(span, failure="internal", attributes={"b": 2})
    (kept,) = written.all()
    assert (kept.name, kept.kind) == ("POST /v1/embed/image", SpanKind.SERVER)
    assert kept.attributes == {"a": 1, "b": 2, "error.type": "internal"}
    assert not kept.status.is_ok
    assert told == f"00-{TRACE}-{own_id(kept)}-00", "what was told to others is what is written"
    assert parent_id(kept) == "b7ad6b7169203331"
    assert kept.start_time is not None
    assert kept.end_time is not None
    assert before <= kept.start_time <= kept.end_time


def test_a_root_that_fails_keeps_the_trace_that_others_were_told(written: Written) -> None:
    written.record(0.0)
    span = tracing.begin("request")
    told = tracing.context_of(tracing.traceparent(span))
    tracing.end(span, failure="internal")
    (kept,) = written.all()
    assert told is not None
    assert kept.context is not None
    assert (kept.context.trace_id, kept.context.span_id) == (told.trace_id, told.span_id)
    assert kept.parent is None


def test_a_block_is_a_part_of_the_span_around_it(written: Written) -> None:
    written.record(1.0)
    request = tracing.begin("request")
    with tracing.current(request), tracing.child("fetch"), tracing.child("read"):
        pass
    tracing.end(request)
    read, fetch, whole = written.all()
    assert [read.name, fetch.name, whole.name] == ["read", "fetch", "request"]
    assert (parent_id(read), parent_id(fetch)) == (own_id(fetch), own_id(whole))


def test_what_a_block_raises_is_its_failure_and_goes_on(written: Written) -> None:
    written.record(1.0)
    with tracing.current(tracing.begin("request")), pytest.raises(DependencyUnavailable), tracing.child("fetch"):
        raise DependencyUnavailable("the store is away")
    (fetch,) = written.all()
    assert fetch.attributes == {"error.type": "dependency_unavailable"}
    assert not fetch.status.is_ok


def test_nothing_is_made_of_the_parts_of_one_that_was_not_drawn(written: Written) -> None:
    written.record(0.0)
    with tracing.current(tracing.begin("request")) as request, tracing.child("fetch") as fetch:
        assert fetch is INVALID_SPAN
        assert get_current_span() is request, "and who asks on is told the request's trace"


async def test_requests_side_by_side_do_not_mix(written: Written) -> None:
    written.record(1.0)

    async def request(name: str) -> None:
        span = tracing.begin(name)
        with tracing.current(span):
            await asyncio.sleep(0)
            with tracing.child(f"part of {name}"):
                await asyncio.sleep(0)
        tracing.end(span)

    await asyncio.gather(*(request(f"request {n}") for n in range(20)))
    whole = {span.name: own_id(span) for span in written.all() if span.name.startswith("request")}
    parts = [span for span in written.all() if span.name.startswith("part")]
    assert len(parts) == 20
    assert all(parent_id(part) == whole[part.name.removeprefix("part of ")] for part in parts)


def test_a_batch_is_a_part_of_its_first_item_and_linked_with_the_others(written: Written) -> None:
    written.record(1.0)
    items = [tracing.begin(f"item {n}") for n in range(3)]
    unseen = tracing.begin("not drawn", parent=tracing.context_of(NOT_DRAWN))
    tracing.end(tracing.begin_joint("batch", [unseen, *items]))
    for item in items:
        tracing.end(item)
    batch, *ended = written.all()
    assert parent_id(batch) == own_id(ended[0])
    assert [format_span_id(link.context.span_id) for link in batch.links] == [own_id(one) for one in ended[1:]]
    assert [[format_span_id(link.context.span_id) for link in one.links] for one in ended] == [
        [], [own_id(batch)], [own_id(batch)]
    ]  # fmt: skip


def test_a_batch_of_items_that_nobody_drew_is_none(written: Written) -> None:
    written.record(0.0)
    assert tracing.begin_joint("batch", [tracing.begin("item")]) is INVALID_SPAN


@pytest.mark.parametrize("given", ["", "rubbish", "00-0-0-01", f"00-{'0' * 32}-b7ad6b7169203331-01", "ff" + DRAWN[2:]])
def test_a_traceparent_that_says_nothing_begins_a_new_trace(written: Written, given: str) -> None:
    written.record(1.0)
    assert tracing.parent_of({"traceparent": given}) is None


def test_an_error_of_the_callers_own_is_not_kept(written: Written) -> None:
    from modelmora.domain.outcome import Failed, Ok, fault_of
    from modelmora.errors import InvalidInput

    assert fault_of(Failed(InvalidInput("no picture"))) == fault_of(Ok(1)) == ""
    assert fault_of(Failed(Overloaded("full"))) == "overloaded"
