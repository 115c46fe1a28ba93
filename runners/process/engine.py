"""The engine of a runner worker, seen from the worker that BentoML supervises: a process of its own, kept alive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

AGAIN_S = 1.0


class Engine:
    """Starts the zygote that forks the engine, starts it again should it end, and ends it."""

    def __init__(self, command: Sequence[str], *, folder: Path, env: Mapping[str, str], grace_s: float) -> None:
        self._command = tuple(command)
        self._folder = folder
        self._env = dict(env)
        self._grace_s = grace_s
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Returns at once; raises nothing."""
        self._watching = asyncio.create_task(self._keep_alive())

    async def stop(self) -> None:
        """Asks it to end, waits for what it is doing, and ends it after the grace time."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._grace_s):
                await process.wait()
        except TimeoutError:
            log.error("engine_does_not_end", pid=process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _keep_alive(self) -> None:
        while True:
            try:
                self._process = await asyncio.create_subprocess_exec(*self._command, cwd=self._folder, env=self._env)
                code = await self._process.wait()
                log.error("engine_gone", pid=self._process.pid, code=code)
            except OSError as cause:
                log.error("engine_not_started", why=str(cause))
            await asyncio.sleep(AGAIN_S)
