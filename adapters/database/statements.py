"""Statements as spans: parts of the span that is current where they are asked, only where somebody records."""

from __future__ import annotations

import re
import time
from typing import Any

from opentelemetry.trace import SpanKind, get_current_span
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from modelmora import tracing

LONGEST = 2_000
"""Characters of a statement; it has no values in it, only places for them."""

_STARTED = "modelmora_started_ns"
_WHAT = re.compile(r"\s*(?:(UPDATE)\s+|(SELECT|INSERT|DELETE|WITH)\b.*?\b(?:FROM|INTO)\s+)([a-z_]+)", re.DOTALL)


def trace_statements(engine: AsyncEngine) -> None:
    """From now on; see OpenTelemetry's semantic conventions for databases."""
    event.listen(engine.sync_engine, "before_cursor_execute", _before)
    event.listen(engine.sync_engine, "after_cursor_execute", _after)


def _before(connection: Any, *_: Any) -> None:
    connection.info[_STARTED] = time.time_ns()


def _after(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
    span = get_current_span()
    found = _WHAT.match(statement) if span.is_recording() else None
    if found is None:  # nobody looks, or it asks no table: the beginning of a transaction, the time
        return
    summary = f"{found[1] or found[2]} {found[3]}"
    told = {
        "db.system.name": connection.dialect.name,
        "db.query.summary": summary,
        "db.query.text": statement[:LONGEST],
    }
    tracing.part(summary, span, kind=SpanKind.CLIENT, started_ns=connection.info[_STARTED], attributes=told)
