"""Ends a runner worker that hangs, so that its supervisor replaces it: a thread cannot be ended, a process can."""

from __future__ import annotations

import asyncio
import faulthandler
import os

import structlog

log = structlog.get_logger(__name__)

STALL_S = 120.0
"""So long the event loop may stand still, such as when a network holds the interpreter: imports take up to 20 s."""

FLUSH_S = 0.5
"""The answers of a hung batch are on their way to its callers for so long before the process ends."""

EXIT_CODE = 75


async def watch_loop(stall_s: float = STALL_S) -> None:
    """Runs beside everything else: should the loop stand still for `stall_s`, every thread's stack is written to
    standard error and the process ends. The timer is C's: it needs neither the loop nor the interpreter."""
    try:
        while True:
            faulthandler.dump_traceback_later(stall_s, exit=True)
            await asyncio.sleep(stall_s / 4)
    finally:
        faulthandler.cancel_dump_traceback_later()


def end_soon() -> None:
    """Ends the process once what was just answered has left."""
    log.error("runner_ends", why="a forward hangs", pid=os.getpid())
    asyncio.get_running_loop().call_later(FLUSH_S, os._exit, EXIT_CODE)
