"""Ends a process whose event loop stands still, so that its supervisor replaces it."""

from __future__ import annotations

import asyncio
import faulthandler

STALL_S = 120.0
"""So long the event loop may stand still, such as when a library holds the interpreter: imports take up to 20 s."""


async def watch_loop(stall_s: float = STALL_S) -> None:
    """Runs beside everything else: should the loop stand still for `stall_s`, every thread's stack is written to
    standard error and the process ends. The timer is C's: it needs neither the loop nor the interpreter."""
    try:
        while True:
            faulthandler.dump_traceback_later(stall_s, exit=True)
            await asyncio.sleep(stall_s / 4)
    finally:
        faulthandler.cancel_dump_traceback_later()
