"""The real HTTP door over a real registry, in a process of its own: `python -m tests.doors.registry_process PORT`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn

from api.core import Core
from api.http.app import create_app
from tests.fakes import World
from tests.support import end, reserve_port, start, wait_until


@contextmanager
def registry_process(folder: Path) -> Iterator[tuple[int, str]]:
    """The number of the process and its URL; what it keeps lies in the folder and goes at the end."""
    port, kept, log = reserve_port(), folder / "server", folder / "server.log"
    kept.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.doors.registry_process", str(port)]
    process = start(command, log=log, env={**os.environ, "TMPDIR": str(kept)})
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            return httpx.get(f"{url}/livez").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_until(up, within_s=60, what="the server")
        yield process.pid, url
    finally:
        end(process)
        shutil.rmtree(kept)


def main(port: int) -> None:
    """Until SIGTERM."""
    app = create_app(Core(World().application()), max_body_bytes=2**20)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off", ws="none")


if __name__ == "__main__":
    main(int(sys.argv[1]))
