"""What a request says of itself beside its content: id, deadline, priority."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal

from modelmora import tracing
from modelmora.domain.inference import Call, Priority
from modelmora.errors import DeadlineExceeded, ValidationFailed
from modelmora.ids import new_id
from modelmora.usecases.admission import Limits

REQUEST_ID = "x-request-id"
TIMEOUT = "x-modelmora-timeout-ms"
PRIORITY = "x-modelmora-priority"
LAST_WORDS_S = 1.0
"""So long after its deadline a stream may still say what the deadline did to its items."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id(given: str | None) -> str:
    """The caller's id where it is one, else a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else new_id()


def read_call(
    headers: Mapping[str, str],
    *,
    id_: str,
    face: Literal["http", "grpc"],
    limits: Limits,
    truncate: bool = False,
    remaining_s: float | None = None,
    stream: bool = False,
) -> Call:
    """Raises ValidationFailed on a timeout or priority that is none; `remaining_s` is gRPC's own deadline.

    A `stream` of items is bulk unless told otherwise, and has no deadline of its own unless it is given one.
    """
    return Call(
        request_id=id_,
        deadline=time.monotonic() + (_timeout_s(headers, limits, stream) if remaining_s is None else remaining_s),
        priority=_priority(headers.get(PRIORITY), usual="bulk" if stream else "interactive"),
        truncate=truncate,
        face=face,
        trace=tracing.drawn_here(),
    )


@asynccontextmanager
async def within(until: float) -> AsyncIterator[None]:
    """A block that a caller who does not read would hold up: ends at `until` (on `time.monotonic()`).

    Raises DeadlineExceeded.
    """
    timer = asyncio.timeout(None if math.isinf(until) else max(0.0, until - time.monotonic()))
    try:
        async with timer:
            yield
    except TimeoutError:
        if not timer.expired():
            raise
        raise DeadlineExceeded("the answers were not read within the deadline") from None


def _timeout_s(headers: Mapping[str, str], limits: Limits, stream: bool) -> float:
    given = headers.get(TIMEOUT)
    if given is None:
        return math.inf if stream else limits.timeout_ms / 1e3
    if not given.isascii() or not given.isdigit() or len(given) > 9 or not 1 <= int(given) <= limits.max_timeout_ms:
        raise ValidationFailed(
            "the timeout is not a number of milliseconds in range",
            field=TIMEOUT,
            found=given[:40],
            expected=f"1 to {limits.max_timeout_ms}",
        )
    return int(given) / 1e3


def _priority(given: str | None, *, usual: Priority) -> Priority:
    match given:
        case None:
            return usual
        case "interactive":
            return "interactive"
        case "bulk":
            return "bulk"
    raise ValidationFailed("no such priority", field=PRIORITY, found=given[:40], expected="interactive or bulk")
