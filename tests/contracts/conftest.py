"""Databases and object stores for the contract suites: SQLite files and folders, a real PostgreSQL, a real S3."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from adapters.objects import FileObjects
from load.components.kafka import Kafka
from load.components.postgres import Postgres
from load.components.redis import Redis
from modelmora.ports import Objects
from tests.contracts.object_store import ObjectStore, bucket, served
from tests.support import components, running

PostgresServer = Postgres
"""As suites name it."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server of this session's own; the URL of it without a database."""
    with postgres_server() as server:
        yield server.url


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Another one, for whoever wants to stop it."""
    # Not pytest's folder: that is closed to the user whom the server runs as when this is root.
    home = Path(tempfile.mkdtemp(prefix="modelmora-postgres-"))
    try:
        with components():
            server = Postgres(home)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(home)


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
    with running(server):
        yield server


@pytest.fixture(scope="session")
def kafka(kafka_server: Kafka) -> str:
    """The address of a broker of this session's own."""
    return kafka_server.brokers


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """It may be killed, by whoever starts it again."""
    with components():
        server = Kafka(tmp_path_factory.mktemp("kafka"))
    with running(server):
        yield server


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
