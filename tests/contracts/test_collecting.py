"""Removing what nothing refers to, over real databases and real object stores: never what somebody needs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.database import Database
from adapters.objects import FileObjects
from modelmora.domain.registry.artifact import Artifact, manifest_of
from modelmora.domain.registry.entries import Running
from modelmora.errors import CapabilityMissing, Conflict, DependencyUnavailable, ValidationFailed
from modelmora.ports import Objects, StoredObject
from modelmora.usecases.registry import Registration
from tests.contracts.whole_registry import ANN, Registry, chunked, opened
from tests.registered import artifact_of

ANY_AGE = 0.0


@pytest.fixture
async def registry(database_url: str, tmp_path: Path) -> AsyncIterator[Registry]:
    database = await Database.open(database_url)
    registry = Registry.over(database, FileObjects(tmp_path / "objects"))
    await registry.models.add("birds", "classification", by=ANN)
    yield registry
    await database.close()


def aged(folder: Path, hours: float) -> None:
    """All files look as old as that."""
    for file in folder.rglob("*"):
        if file.is_file():
            then = file.stat().st_mtime - hours * 3600
            os.utime(file, (then, then))


async def test_what_a_version_refers_to_stays_and_what_nothing_does_goes(registry: Registry) -> None:
    version = artifact_of(await registry.register(content=b"weights"))
    [left] = await registry.bring(b"left over")
    collected = await registry.files.collect(older_than_s=ANY_AGE)
    assert (collected.removed, collected.bytes) == (1, len(b"left over"))
    assert await registry.kept() == sorted([version.sha256, version.files[0].sha256])
    assert left.sha256 not in await registry.kept()
    assert (await registry.files.collect(older_than_s=ANY_AGE)).removed == 0


async def test_what_two_versions_share_stays_until_both_are_gone(registry: Registry) -> None:
    for number in ("1.0.0", "2.0.0"):
        await registry.register(number, content=b"shared")
    await registry.versions.remove("birds", "1.0.0", by=ANN)
    assert (await registry.files.collect(older_than_s=ANY_AGE)).removed == 0
    await registry.versions.remove("birds", "2.0.0", by=ANN)
    assert (await registry.files.collect(older_than_s=ANY_AGE)).removed == 2
    assert await registry.kept() == []


async def test_a_purged_versions_files_go_and_its_entry_stays(registry: Registry) -> None:
    version = await registry.register()
    for move in ("archive", "purge"):
        await registry.versions.move("birds", "1.0.0", move, by=ANN)
    assert (await registry.files.collect(older_than_s=ANY_AGE)).removed == 2
    assert (await registry.versions.get("birds", "1.0.0")).artifact == version.artifact


async def test_what_came_lately_stays(registry: Registry, tmp_path: Path) -> None:
    [young] = await registry.bring(b"young")
    assert (await registry.files.collect()).removed == 0
    aged(tmp_path / "objects", hours=0.9)
    assert (await registry.files.collect()).removed == 0
    aged(tmp_path / "objects", hours=0.2)
    assert await registry.kept() == [young.sha256]
    assert (await registry.files.collect()).removed == 1


async def test_what_comes_again_is_young_again(registry: Registry, tmp_path: Path) -> None:
    await registry.bring(b"again")
    aged(tmp_path / "objects", hours=5)
    await registry.files.put(chunked(b"again"))
    assert (await registry.files.collect()).removed == 0


async def test_what_uploads_left_goes_after_a_day_or_when_that_is_asked_for(registry: Registry, tmp_path: Path) -> None:
    coming = tmp_path / "objects" / "uploads"
    coming.mkdir(parents=True)
    (coming / "left").write_bytes(b"half of it")
    aged(coming, hours=23)
    assert (await registry.files.collect()).removed == 0
    aged(coming, hours=2)
    assert (await registry.files.collect()).removed == 1
    (coming / "left").write_bytes(b"half of it")
    aged(coming, hours=0.1)
    assert (await registry.files.collect(older_than_s=60)).removed == 1


@pytest.mark.parametrize("age", [-1.0, float("nan"), float("inf"), 1e12])
async def test_what_is_no_age_is_refused(registry: Registry, age: float) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await registry.files.collect(older_than_s=age)
    assert refused.value.field == "older_than_s"


async def test_one_collects_at_a_time(registry: Registry) -> None:
    assert await registry.database.leases.acquire("gc", "somebody else", ttl_s=60) is not None
    with pytest.raises(Conflict, match="somebody else is removing"):
        await registry.files.collect()
    await registry.database.leases.release("gc", "somebody else")
    await registry.files.collect()
    await registry.files.collect()


async def test_more_than_a_batch_goes(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmora.usecases.registry.files.BATCH", 4)
    kept = artifact_of(await registry.register(content=b"kept"))
    await registry.bring(*(bytes([number]) * 3 for number in range(11)))
    collected = await registry.files.collect(older_than_s=ANY_AGE)
    assert (collected.removed, collected.bytes) == (11, 33)
    assert await registry.kept() == sorted([kept.sha256, kept.files[0].sha256])


async def test_the_files_of_what_was_declared_by_its_digest_stay(registry: Registry) -> None:
    """Only the store knows which they are."""
    artifact = Artifact.of("", await registry.bring(b"one", b"two"))
    await registry.files.put(chunked(manifest_of(artifact.files)), sha256=artifact.sha256)
    spec = replace((await registry.approved(content=b"other")).spec(), name="fish", source=f"object:{artifact.sha256}")
    no_list = (await registry.bring(b"no list of files"))[0].sha256
    odd = replace(spec, name="frogs", source=f"object:{no_list}")
    gone = replace(spec, name="newts", source=f"object:{'ab' * 32}")
    assert await registry.declare(spec, odd, gone) == ()
    await registry.bring(b"left over")
    assert (await registry.files.collect(older_than_s=ANY_AGE)).removed == 1
    assert {artifact.sha256, no_list, *(file.sha256 for file in artifact.files)} <= set(await registry.kept())


# --- who registers and who collects at the same time -------------------------------------------------------------


class Slow(FileObjects):
    """A store in which something happens between one question and the next."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.found = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def find(self, sha256: str) -> StoredObject | None:
        there = await super().find(sha256)
        self.found.set()
        await self.go_on.wait()
        return there


async def test_what_a_registration_found_there_is_not_removed_before_it_ends(database_url: str, tmp_path: Path) -> None:
    objects = Slow(tmp_path)
    async with opened([database_url] * 2, objects) as (registering, collecting):
        await registering.models.add("birds", "classification", by=ANN)
        files = await registering.bring(b"weights")
        aged(tmp_path, hours=5)
        objects.go_on.clear()
        objects.found.clear()
        given = Registration(version="1.0.0", files=files, running=Running(provider="classifier"))
        running = asyncio.create_task(registering.versions.register("birds", given, by=ANN))
        await objects.found.wait()  # it is there, says the store
        collected = asyncio.create_task(collecting.files.collect())
        done, _ = await asyncio.wait([collected], timeout=30)
        assert done
        assert collected.result().removed == 0
        objects.go_on.set()
        version = artifact_of(await running)
        assert (await collecting.files.collect()).removed == 0
        assert {version.sha256, files[0].sha256} == set(await registering.kept())


async def test_what_is_being_removed_is_not_registered(database_url: str, tmp_path: Path) -> None:
    """All of it or nothing: whoever registers is told to bring it again, and then may."""
    objects = Slow(tmp_path)
    async with opened([database_url] * 2, objects) as (registering, collecting):
        await registering.models.add("birds", "classification", by=ANN)
        files = await registering.bring(b"weights")
        aged(tmp_path, hours=5)
        objects.go_on.clear()
        objects.found.clear()
        collected = asyncio.create_task(collecting.files.collect())
        await objects.found.wait()  # it is condemned, and looked at for the last time
        given = Registration(version="1.0.0", files=files, running=Running(provider="classifier"))
        with pytest.raises(Conflict, match="bring them again") as refused:
            await registering.versions.register("birds", given, by=ANN)
        assert refused.value.retry_after_s
        objects.go_on.set()
        assert (await collected).removed == 1
        with pytest.raises(ValidationFailed, match="not in the object store"):
            await registering.versions.register("birds", given, by=ANN)
        await registering.bring(b"weights")
        await registering.versions.register("birds", given, by=ANN)
        assert await registering.states() == {"1.0.0": "registered"}


async def test_what_comes_while_it_is_being_removed_is_sent_again(database_url: str, tmp_path: Path) -> None:
    objects = Slow(tmp_path)
    async with opened([database_url] * 2, objects) as (bringing, collecting):
        await bringing.bring(b"weights")
        aged(tmp_path, hours=5)
        objects.go_on.clear()
        objects.found.clear()
        collected = asyncio.create_task(collecting.files.collect())
        await objects.found.wait()
        with pytest.raises(Conflict, match="send it again"):
            await bringing.files.put(chunked(b"weights"))
        objects.go_on.set()
        await collected
        stored = await bringing.files.put(chunked(b"weights"))
        assert await bringing.kept() == [stored.sha256]


async def test_many_who_register_and_one_who_collects_all_the_time_lose_nothing(
    database_url: str, tmp_path: Path
) -> None:
    """Whatever is registered has all its files; whoever was too late was told so."""
    objects = FileObjects(tmp_path)
    async with opened([database_url] * 2, objects) as (registering, collecting):
        await registering.models.add("birds", "classification", by=ANN)
        done = asyncio.Event()

        async def collect() -> None:
            while not done.is_set():
                await collecting.files.collect(older_than_s=ANY_AGE)

        async def register(number: int) -> bool:
            try:
                await registering.register(f"1.{number}.0", content=bytes([number % 3]) * 10)
            except (Conflict, ValidationFailed):
                return False
            return True

        sweeping = asyncio.create_task(collect())
        outcomes = [await register(number) for number in range(30)]
        done.set()
        await sweeping
        assert len(await registering.states()) == outcomes.count(True)
        kept = set(await registering.kept())
        for number, registered in enumerate(outcomes):
            if registered:
                artifact = artifact_of(await registering.versions.get("birds", f"1.{number}.0"))
                assert {artifact.sha256, *(file.sha256 for file in artifact.files)} <= kept


async def test_a_store_that_fails_in_between_leaves_what_it_failed_at_alone(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may yet do what it was asked to: until then nobody may refer to that."""
    files = await registry.bring(b"weights")

    async def failing(sha256: str) -> bool:
        raise DependencyUnavailable("the object store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(registry.objects, "remove", failing)
        patch.setattr("modelmora.usecases.registry.files.CONDEMNED_S", 3.0)
        with pytest.raises(DependencyUnavailable):
            await registry.files.collect(older_than_s=ANY_AGE)
    given = Registration(version="1.0.0", files=files, running=Running(provider="classifier"))
    with pytest.raises(Conflict, match="are being removed"):
        await registry.versions.register("birds", given, by=ANN)
    assert (await registry.files.collect(older_than_s=ANY_AGE)).removed == 1  # nobody holds the lease any more
    await asyncio.sleep(3.0)
    await registry.bring(b"weights")
    await registry.versions.register("birds", given, by=ANN)


async def test_a_store_that_never_answers_ends_the_collecting(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registry.bring(b"weights")
    monkeypatch.setattr("modelmora.usecases.registry.files.REMOVED_S", 0.2)

    async def never(sha256: str) -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(registry.objects, "remove", never)
    with pytest.raises(DependencyUnavailable, match="takes too long"):
        await registry.files.collect(older_than_s=ANY_AGE)


# --- over each kind of store -------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_each_store_keeps_what_is_referred_to(database_url: str, objects: Objects) -> None:
    async with opened([database_url], objects) as (registry,):
        await registry.models.add("birds", "classification", by=ANN)
        version = artifact_of(await registry.register(content=b"weights"))
        await registry.bring(b"left over", b"and more")
        await asyncio.sleep(1.1)  # a store tells the time in whole seconds
        assert (await registry.files.collect(older_than_s=ANY_AGE)).removed == 2
        assert await registry.kept() == sorted([version.sha256, version.files[0].sha256])


# --- uploads past us ---------------------------------------------------------------------------------------------


async def test_a_store_that_takes_no_uploads_past_us_says_so(registry: Registry) -> None:
    with pytest.raises(CapabilityMissing, match="PUT /api/v1/artifacts"):
        await registry.files.presign()


@pytest.mark.parametrize("name", ["", "../sha256/ab", "x" * 32, "A" * 32, "0" * 31, "0" * 32 + "/x", "0" * 32])
async def test_an_upload_that_never_was_is_refused_by_its_name(registry: Registry, name: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await registry.files.adopt(name)
    assert refused.value.field == "name"


@pytest.mark.parametrize("sha256", ["", "ab", "AB" * 32, "../" * 20 + "abcd", "é" * 64])
async def test_what_is_no_digest_is_refused(registry: Registry, sha256: str) -> None:
    for ask in (registry.files.find(sha256), registry.files.put(chunked(b"x"), sha256=sha256)):
        with pytest.raises(ValidationFailed):
            await ask
    with pytest.raises(ValidationFailed):
        registry.files.get(sha256)
