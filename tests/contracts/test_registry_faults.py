"""What breaks while somebody registers: nothing is half there afterwards, nothing is lost, and it can be done again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import event

from adapters.database import Database
from adapters.objects import FileObjects, S3Objects
from modelmora.domain.registry.audit import AuditEntry, Change
from modelmora.domain.registry.entries import Running
from modelmora.errors import DependencyUnavailable, ModelMoraError
from modelmora.ports import StoredObject
from modelmora.usecases.registry import Registration
from tests.contracts.conftest import PostgresServer, postgres_server
from tests.contracts.object_store import ObjectStore, bucket
from tests.contracts.registering_process import WEIGHTS
from tests.contracts.whole_registry import ANN, Registry, chunked, opened
from tests.registered import artifact_of
from tests.support import reserve_port

ANY_AGE = 0.0


@pytest.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Registry]:
    database = await Database.open(database_url)
    registry = Registry.over(database, FileObjects(tmp_path / "objects"))
    await registry.models.add("birds", "classification", by=ANN)
    yield registry
    await database.close()


# --- the process -------------------------------------------------------------------------------------------------


def killed_at(point: str, url: str, where: str) -> None:
    """A process of its own registers until it gets there, and is killed."""
    command = [sys.executable, "-m", "tests.contracts.registering_process", point, url, where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(20) == -signal.SIGKILL


POINTS = ["upload", "uploaded", "listed", "written"]


@pytest.mark.parametrize("point", POINTS)
async def test_a_process_killed_on_its_way_leaves_nothing_half_registered(
    registry: Registry, database_url: str, tmp_path: Path, point: str
) -> None:
    await asyncio.to_thread(killed_at, point, database_url, str(tmp_path / "objects"))
    await whole_again(registry)


@pytest.mark.parametrize("point", POINTS[:2])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_nor_in_a_store_that_takes_it_in_parts(database_url: str, store: ObjectStore, point: str) -> None:
    objects = await bucket(store)
    async with opened([database_url], objects) as (registry,):
        await registry.models.add("birds", "classification", by=ANN)
        where = f"{store.endpoint} {objects._bucket} {store.access_key} {store.secret_key}"
        await asyncio.to_thread(killed_at, point, database_url, where)
        await asyncio.sleep(1.1)  # a store tells the time in whole seconds
        await whole_again(registry)
        assert objects._client._list_multipart_uploads(objects._bucket).uploads == []


async def whole_again(registry: Registry) -> None:
    """Nothing is registered, what lies about goes, and somebody else registers the same."""
    assert await registry.states() == {}
    assert await registry.told() == [("ann", "model.register", "birds")]
    await registry.database.holds.let_go("id-5000")  # what it held goes by itself after an hour
    await registry.files.collect(older_than_s=ANY_AGE)
    assert await registry.kept() == []
    assert (await registry.files.collect(older_than_s=ANY_AGE)).removed == 0
    files = (await registry.file("weights", WEIGHTS), await registry.file("config.json", b"{}"))
    given = Registration(version="1.0.0", files=files, running=Running(provider="classifier"))
    version = artifact_of(await registry.versions.register("birds", given, by=ANN))
    assert await registry.kept() == sorted([version.sha256, *(file.sha256 for file in files)])
    assert await registry.states() == {"1.0.0": "registered"}


async def test_what_a_killed_process_held_is_free_after_a_while(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelmora.usecases.registry.versions.HELD_S", 0.5)

    async def killed(holder: str) -> None:
        raise DependencyUnavailable("nobody lets go")

    monkeypatch.setattr(registry.database.holds, "let_go", killed)
    monkeypatch.setattr(registry.database.versions, "add", failing)
    with pytest.raises(DependencyUnavailable):
        await registry.register()
    async with asyncio.timeout(20):
        while await registry.kept():
            await registry.files.collect(older_than_s=ANY_AGE)


async def failing(*_: object, **__: object) -> None:
    raise DependencyUnavailable("the database does not answer")


# --- the database ------------------------------------------------------------------------------------------------


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


async def test_a_database_that_is_restarted_in_the_middle_of_a_registration(
    own_postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power fails within its transaction: it is told, nothing is there, and the same pool goes on afterwards."""
    database = await Database.open(f"postgresql+asyncpg://{own_postgres.url}/postgres")
    registry = Registry.over(database, FileObjects(tmp_path))
    await registry.models.add("birds", "classification", by=ANN)
    real = database.audit.append

    async def append(connection: object, change: Change) -> AuditEntry:
        await asyncio.to_thread(own_postgres.stop)
        return await real(connection, change)  # type: ignore[arg-type] # the connection that was just cut

    with monkeypatch.context() as patch:
        patch.setattr(database.audit, "append", append)
        with pytest.raises(DependencyUnavailable, match="does not answer"):
            await registry.register()
    for ask in (registry.models.get("birds"), registry.register("2.0.0"), registry.files.collect()):
        with pytest.raises(DependencyUnavailable, match="does not answer"):
            await ask
    await asyncio.to_thread(own_postgres.start)
    assert await registry.states() == {}
    await registry.register()
    await registry.declare((await registry.approved("2.0.0", content=b"v")).spec())
    assert await registry.states() == {"1.0.0": "registered", "2.0.0": "approved"}
    assert (await registry.audit.verify()).intact
    await database.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_connection_that_is_cut_while_it_waits_is_told(registry: Registry, database_url: str) -> None:
    """Somebody else is changing the registry, and the server ends whoever waits for him."""
    server, _, name = database_url.removeprefix("postgresql+asyncpg://").partition("/")
    other = await asyncpg.connect(f"postgresql://{server}/{name}")
    try:
        async with other.transaction():
            await other.execute("SELECT * FROM audit_heads FOR UPDATE")
            waiting = asyncio.create_task(registry.models.add("fish", "tensor", by=ANN))
            waits = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'"
            while not (pids := [row["pid"] for row in await other.fetch(waits, name)]):
                pass  # nothing tells when
            await other.execute("SELECT pg_terminate_backend($1)", pids[0])
            with pytest.raises(DependencyUnavailable, match="does not answer"):
                await waiting
    finally:
        await other.close()
    await registry.models.add("fish", "tensor", by=ANN)
    assert [subject for _, _, subject in await registry.told()] == ["birds", "fish"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_disk_that_is_full_under_the_database_is_told_and_nothing_is_half_there(registry: Registry) -> None:
    files = await registry.bring(*(number.to_bytes(2, "big") for number in range(500)))
    given = Registration(version="1.0.0", files=files, running=Running(provider="classifier"))

    def full(connection: object, *_: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # type: ignore[attr-defined] # the driver's; it is raised to what there is

    engine = registry.database._engine.sync_engine
    event.listen(engine, "checkout", full)
    with pytest.raises(DependencyUnavailable, match="database or disk is full"):
        await registry.versions.register("birds", given, by=ANN)
    event.remove(engine, "checkout", full)
    event.listen(engine, "checkout", lambda connection, *_: connection.execute("PRAGMA max_page_count = 1000000000"))
    assert await registry.states() == {}
    assert len(await registry.told()) == 1
    await registry.versions.register("birds", given, by=ANN)
    assert await registry.states() == {"1.0.0": "registered"}


# --- the object store --------------------------------------------------------------------------------------------


async def test_a_store_that_is_away_is_told_and_nothing_is_registered(registry: Registry) -> None:
    files = await registry.bring(b"weights")
    away = S3Objects(f"127.0.0.1:{reserve_port()}", "models", access_key="a", secret_key="b", secure=False)
    given = Registration(version="1.0.0", files=files, running=Running(provider="classifier"))
    cut_off = Registry.over(registry.database, away, first_id=1_000)
    for ask in (
        cut_off.versions.register("birds", given, by=ANN),
        cut_off.files.put(chunked(b"x")),
        cut_off.files.collect(),
    ):
        with pytest.raises(DependencyUnavailable, match="MODELMORA_OBJECTS_URL"):
            await ask
    away.close()
    assert await registry.states() == {}
    assert (await registry.versions.register("birds", given, by=ANN)).state == "registered"


@pytest.mark.parametrize("point", ["find", "put"])
async def test_a_store_that_does_not_come_to_an_end_is_given_up(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    files = await registry.bring(b"weights")
    given = Registration(version="1.0.0", files=files, running=Running(provider="classifier"))

    async def never(*_: object, **__: object) -> StoredObject:
        await asyncio.Event().wait()
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr("modelmora.usecases.registry.versions.HELD_S", 0.4)
        patch.setattr(registry.objects, point, never)
        with pytest.raises(ModelMoraError, match="takes too long") as given_up:
            await registry.versions.register("birds", given, by=ANN)
    assert given_up.value.code == "deadline_exceeded"
    await registry.versions.register("birds", given, by=ANN)


async def test_a_caller_who_leaves_in_the_middle_leaves_nothing(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any point: afterwards the version is there with its entry of the audit, or neither is."""
    points: list[tuple[object, str]] = [
        (registry.objects, "find"),
        (registry.objects, "put"),
        (registry.database.holds, "hold"),
        (registry.database.holds, "let_go"),
        (registry.database.audit, "append"),
    ]
    files = await registry.bring(b"weights")
    for number, (owner, name) in enumerate(points):
        given = Registration(version=f"1.0.{number}", files=files, running=Running(provider="classifier"))
        with monkeypatch.context() as patch:
            reached = asyncio.Event()
            patch.setattr(owner, name, announced(getattr(owner, name), reached))
            leaving = asyncio.create_task(registry.versions.register("birds", given, by=ANN))
            await asyncio.wait_for(reached.wait(), 20)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
        entries = [action for _, action, _ in await registry.told()]
        assert entries.count("version.register") == len(await registry.states())
    for version in await registry.states():
        await registry.versions.remove("birds", version, by=ANN)
    assert await registry.database.holds.condemn([files[0].sha256], ttl_s=1) != []  # nobody holds it any more


def announced(real: Callable[..., object], reached: asyncio.Event) -> Callable[..., object]:
    async def ask(*args: object, **more: object) -> object:
        reached.set()
        await asyncio.sleep(0)
        return await real(*args, **more)  # type: ignore[misc] # each of them is asynchronous

    return ask
