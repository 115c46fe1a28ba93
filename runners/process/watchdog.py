"""Ends a runner worker that hangs, so that its supervisor replaces it: a thread cannot be ended, a process can."""

from __future__ import annotations

import asyncio
import os

import structlog

log = structlog.get_logger(__name__)

FLUSH_S = 0.5
"""The answers of a hung batch are on their way to its callers for so long before the process ends."""

EXIT_CODE = 75


def end_soon() -> None:
    """Ends the process once what was just answered has left."""
    log.error("runner_ends", why="a forward hangs", pid=os.getpid())
    asyncio.get_running_loop().call_later(FLUSH_S, os._exit, EXIT_CODE)
