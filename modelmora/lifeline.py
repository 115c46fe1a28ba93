"""Ends a process whose parent is gone: an orphan would serve on, unsupervised, beside the next start."""

from __future__ import annotations

import os
import signal
import threading
import time

PERIOD_S = 0.5


def hold(*, grace_s: float) -> None:
    """Watches the parent from a thread; asks with SIGTERM first, leaves at once after `grace_s`."""
    parent = os.getppid()
    threading.Thread(target=_watch, args=(parent, grace_s), name="lifeline", daemon=True).start()


def _watch(parent: int, grace_s: float) -> None:
    while os.getppid() == parent:
        time.sleep(PERIOD_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    os._exit(1)
