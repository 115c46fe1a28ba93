"""Work of a door that may be too long for its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def here(work: Callable[[], T], *, size: int, most: int) -> T:
    """On the loop where its `size` is at most `most`, else in a thread: a hop costs more than little work does."""
    return work() if size <= most else await asyncio.to_thread(work)
