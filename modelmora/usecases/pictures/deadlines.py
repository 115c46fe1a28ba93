"""Stores and models are waited for as long as the caller waits, no longer."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from modelmora.errors import DeadlineExceeded


@asynccontextmanager
async def before(deadline: float, what: str) -> AsyncIterator[None]:
    """A block that ends at the deadline (on `time.monotonic()`); raises DeadlineExceeded saying what was too slow."""
    timer = asyncio.timeout(None if math.isinf(deadline) else max(0.0, deadline - time.monotonic()))
    try:
        async with timer:
            yield
    except TimeoutError:
        if not timer.expired():
            raise
        raise DeadlineExceeded(f"{what} took longer than the caller waits") from None
