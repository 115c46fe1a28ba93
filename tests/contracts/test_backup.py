"""Backup and restore over real stores of each kind: what comes back is what there was, or nothing at all."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from adapters.archives import TarReader, TarWriter
from adapters.database import Database
from adapters.database.migrate import revert
from adapters.images.files import FilePictures
from adapters.objects import FileObjects
from adapters.vectors.qdrant import QdrantVectors
from modelmora.domain.outcome import unwrap
from modelmora.domain.pictures.spaces import Index, Space
from modelmora.domain.registry.artifact import Artifact, ArtifactFile, manifest_of
from modelmora.domain.registry.audit import Change
from modelmora.errors import ArtifactCorrupt, Conflict, DependencyUnavailable, ValidationFailed, WrongState
from modelmora.ports import DeadLetter, Objects, PictureFiles, Registration, Vectors
from modelmora.usecases.backup import Backup, Restore
from modelmora.usecases.backup.layout import Report
from tests.contracts.points import PLAIN, found, point
from tests.pictures import START, coming, digest, drawing, step
from tests.registered import a_change, a_model, a_version

SHAPES = Space(model="shapes-clip", version="1.0.0")
WEIGHTS = b"weights" * 100_000


@dataclass
class Stores:
    """Those of one deployment."""

    database: Database
    objects: Objects
    files: PictureFiles
    vectors: Vectors

    def backup(self) -> Backup:
        return Backup(
            self.database.tables,
            self.objects,
            self.files,
            records=self.database.pictures,
            vectors=self.vectors,
            indexes=self.database.indexes,
            version="9.9.9",
            clock=lambda: START,
        )

    def restore(self) -> Restore:
        return Restore(self.database.tables, self.objects, self.files, self.vectors)

    async def rows(self) -> dict[str, list[Any]]:
        """Of all tables; where pictures lie is another place in another store."""
        told: dict[str, list[Any]] = {}
        async with self.database.tables.copy() as copy:
            for name in copy.names:
                rows = [dict(row) async for some in copy.rows(name) for row in some]
                told[name] = [
                    {**row, "object": ""} if row.get("object") == self.files.place(row.get("sha256", "")) else row
                    for row in rows
                ]
        return told


@asynccontextmanager
async def stores(url: str, folder: Path) -> AsyncIterator[Stores]:
    async with AsyncExitStack() as stack:
        database = await Database.open(url)
        stack.push_async_callback(database.close)
        vectors = await QdrantVectors.local(folder / "vectors")
        stack.push_async_callback(vectors.close)
        yield Stores(database, FileObjects(folder / "objects"), FilePictures(folder / "objects"), vectors)


@pytest.fixture
async def full(database_url: str, tmp_path: Path) -> AsyncIterator[Stores]:
    """A model with its weights, three pictures, of which one was removed and one is not indexed, and a letter."""
    async with stores(database_url, tmp_path / "full") as made:
        await fill(made)
        yield made


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[Stores]:
    async with stores(f"sqlite+aiosqlite:///{tmp_path}/empty/modelmora.db", tmp_path / "empty") as made:
        yield made


async def fill(made: Stores) -> None:
    database = made.database
    kept = await made.objects.put(chunks(WEIGHTS))
    artifact = Artifact.of("object:x", [ArtifactFile(path="model.safetensors", bytes=kept.bytes, sha256=kept.sha256)])
    await made.objects.put(chunks(manifest_of(artifact.files)), sha256=artifact.sha256)
    await database.models.add(a_model(), change=a_change())
    version = a_version(artifact=artifact, source=f"object:{artifact.sha256}")
    await database.versions.add(version, change=Change(actor="ann", action="v", subject="birds@1.0.0", request_id="r"))
    for name, colour in (("a", "red"), ("b", "green"), ("gone", "blue")):
        data = drawing(colour)
        place = await made.files.put(digest(data), data, content_type="image/png")
        await made.files.put_thumbnail(digest(data), b"small " + name.encode())
        told = {"sha256": digest(data), "object": place, "bytes": len(data), "tags": (colour,)}
        await register(made, coming(name, **told, announce="/x", metadata={"n": 1, "wo": "ü"}))
    await register(made, coming("elsewhere", object="s3://theirs/1.png"))
    await database.indexes.add(
        Index(space=SHAPES, state="live", dimension=3, settings=PLAIN, created_at=START, changed_at=START)
    )
    await made.vectors.create(SHAPES.name, dimension=3, settings=PLAIN)
    await made.vectors.switch(SHAPES.alias, SHAPES.name)
    points = [point("a", 1, 0, 0), point("unknown", 0, 1, 0)]  # the latter came when the rows had been read
    shapes = [replace(p, provenance=replace(p.provenance, model="shapes-clip", precision="bf16")) for p in points]
    await made.vectors.upsert(SHAPES.name, shapes)
    await database.pictures.finish([step("a"), step("gone"), step("b", "dead", code="internal", detail="why")])
    await database.pictures.remove(["gone"], source="/x")
    letter = DeadLetter(
        id="raw",
        topic="t",
        key=b"\xff",
        value=b"\x00rubbish",
        code="c",
        detail="d",
        first_failed_at=START,
        failed_at=START,
    )
    await database.dead_letters.add([letter])


async def register(made: Stores, registration: Registration) -> None:
    (outcome,) = await made.database.pictures.register([registration])
    unwrap(outcome)


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 65_536):
        yield data[start : start + 65_536]


async def saved(made: Stores, file: Path, **options: Any) -> Report:
    async with TarWriter(file) as archive:
        return await made.backup()(archive, **options)


async def test_what_is_restored_is_what_was_kept(full: Stores, empty: Stores, tmp_path: Path) -> None:
    report = await saved(full, tmp_path / "b.tar")
    assert (report.counts["files"], report.counts["pictures"], report.counts["vectors"]) == (2, 2, 1)
    assert report.left_out == {}
    again = await empty.restore()(TarReader(tmp_path / "b.tar"))
    assert (again.counts, again.made_at) == (report.counts, START)

    assert await empty.rows() == await full.rows()
    assert await empty.database.audit.broken() is None
    version = await empty.database.versions.get("birds", "1.0.0")
    assert version.artifact is not None
    assert b"".join([c async for c in empty.objects.get(version.artifact.files[0].sha256)]) == WEIGHTS
    kept = await empty.database.pictures.get("a")
    assert await empty.files.get(kept.object, max_bytes=10**6) == drawing("red")
    assert await empty.files.thumbnail(kept.sha256) == b"small a"
    assert (await empty.database.pictures.get("elsewhere")).object == "s3://theirs/1.png"
    assert await empty.vectors.points(SHAPES.alias, ["a"]) == await full.vectors.points(SHAPES.alias, ["a"])
    assert await found(empty.vectors, SHAPES.alias) == ["a"]
    with pytest.raises(DependencyUnavailable):
        await anext(empty.objects.get(digest(drawing("blue"))))


async def test_a_restored_database_goes_on_counting(
    full: Stores, database_url: str, tmp_path: Path, empty: Stores
) -> None:
    """From the one kind to the other and back, and then written to."""
    await saved(full, tmp_path / "b.tar")
    await empty.restore()(TarReader(tmp_path / "b.tar"))
    await empty.database.models.add(a_model("later"), change=a_change(subject="later"))
    await register(empty, coming("later", announce="/x"))
    await saved(empty, tmp_path / "c.tar")
    await wiped(database_url)
    async with stores(database_url, tmp_path / "back") as back:
        await back.restore()(TarReader(tmp_path / "c.tar"))
        assert await back.rows() == await empty.rows()
        last = max(one.number for one in await back.database.outbox.due(limit=100))
        await register(back, coming("last", announce="/x"))
        await back.database.models.add(a_model("last"), change=a_change(subject="last"))
        assert max(one.number for one in await back.database.outbox.due(limit=100)) > last
        assert await back.database.audit.broken() is None


async def wiped(url: str) -> None:
    database = await Database.open(url)
    await revert(database._engine)
    await database.close()


async def test_without_vectors_pictures_are_embedded_again(full: Stores, empty: Stores, tmp_path: Path) -> None:
    await saved(full, tmp_path / "b.tar", vectors=False)
    await empty.restore()(TarReader(tmp_path / "b.tar"))
    assert await empty.vectors.names() == ()
    (way,) = (await empty.database.pictures.ways(["a"]))["a"]
    assert way.state == "received"
    assert await empty.database.pictures.announce_again(stuck_s=0, tries=5, limit=10, source="/x") >= 1


async def test_stores_that_are_not_empty_are_left_as_they_are(full: Stores, tmp_path: Path) -> None:
    await saved(full, tmp_path / "b.tar")
    before = await full.rows()
    with pytest.raises(WrongState, match=r"is not empty: table .* has rows"):
        await full.restore()(TarReader(tmp_path / "b.tar"))
    assert await full.rows() == before
    assert await found(full.vectors, SHAPES.alias) == ["a", "unknown"]


async def test_points_that_are_there_are_left_as_they_are(full: Stores, empty: Stores, tmp_path: Path) -> None:
    await saved(full, tmp_path / "b.tar")
    await empty.vectors.create(SHAPES.name, dimension=3, settings=PLAIN)
    await empty.vectors.upsert(SHAPES.name, [point("theirs", 1, 0, 0)])
    with pytest.raises(WrongState, match=r"has points in .* already"):
        await empty.restore()(TarReader(tmp_path / "b.tar"))
    assert await found(empty.vectors, SHAPES.name) == ["theirs"]
    await empty.database.tables.check_empty()


async def test_a_picture_that_is_removed_meanwhile_is_not_restored(
    full: Stores, empty: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its row and its bytes."""
    put = full.objects.find

    async def find(sha256: str) -> Any:
        if await full.database.pictures.used(digest(drawing("red"))):
            await full.database.pictures.remove(["a"], source="/x")
            await full.files.remove(digest(drawing("red")))
        return await put(sha256)

    monkeypatch.setattr(full.objects, "find", find)
    report = await saved(full, tmp_path / "b.tar")
    assert (report.counts["pictures"], report.left_out) == (1, {})
    await empty.restore()(TarReader(tmp_path / "b.tar"))
    rows = await empty.rows()
    assert [row["id"] for row in rows["pictures"]] == ["b", "elsewhere", "gone"]
    assert "a" not in {row["picture_id"] for name in ("ways", "outbox", "picture_tags") for row in rows[name]}
    assert await empty.vectors.count(SHAPES.name) == 0


async def test_files_that_are_lost_or_spoilt_are_named_and_the_rest_is_kept(
    full: Stores, empty: Stores, tmp_path: Path
) -> None:
    (weights,) = [one.sha256 async for one in full.objects.all() if one.bytes == len(WEIGHTS)]
    at = tmp_path / "full" / "objects"
    (at / "sha256" / weights[:2] / weights).write_bytes(b"x" * len(WEIGHTS))
    red, green = digest(drawing("red")), digest(drawing("green"))
    (at / "pictures" / red[:2] / red).unlink()
    spoilt = at / "pictures" / green[:2] / green
    spoilt.write_bytes(b"x" * spoilt.stat().st_size)

    report = await saved(full, tmp_path / "b.tar")

    assert set(report.left_out) == {weights, red, green}
    assert (report.counts["files"], report.counts.get("pictures", 0)) == (1, 0)
    again = await empty.restore()(TarReader(tmp_path / "b.tar"))
    assert set(again.left_out) == {weights, red, green}
    assert await empty.rows() == await full.rows()


# --- archives that are not what was written ----------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
async def test_what_is_cut_off_is_refused_before_anything_is_written(
    full: Stores, empty: Stores, tmp_path: Path, share: float
) -> None:
    await saved(full, tmp_path / "b.tar")
    data = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValidationFailed, match=r"cut off|is no backup"):
        await empty.restore()(TarReader(tmp_path / "cut.tar"))
    await empty.database.tables.check_empty()
    assert [one async for one in empty.objects.all()] == []


def changed(source: Path, target: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> None:
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for one in old:
            told = change(one.name, old.extractfile(one).read())  # type: ignore[union-attr] # all are files
            if told is not None:
                info = tarfile.TarInfo(told[0])
                info.size = len(told[1])
                new.addfile(info, io.BytesIO(told[1]))


@pytest.mark.parametrize("folder", ["tables/models", "vectors/", "files/", "pictures/"])
async def test_other_bytes_than_were_written_leave_the_database_empty(
    full: Stores, empty: Stores, tmp_path: Path, folder: str
) -> None:
    await saved(full, tmp_path / "b.tar")

    def flip(name: str, data: bytes) -> tuple[str, bytes]:
        return name, data.replace(b"r", b"s") + b"\n" if name.startswith(folder) else data

    changed(tmp_path / "b.tar", tmp_path / "flipped.tar", flip)
    with pytest.raises((ArtifactCorrupt, ValidationFailed)):
        await empty.restore()(TarReader(tmp_path / "flipped.tar"))
    await empty.database.tables.check_empty()
    assert await empty.vectors.names() == ()
    await empty.restore()(TarReader(tmp_path / "b.tar"))  # with another copy it can be begun again
    assert await empty.rows() == await full.rows()


@pytest.mark.parametrize(
    "told",
    [
        (b'"format":1', b'"format":2', "is of format 2"),
        (b'"revision":"0003"', b'"revision":"9999"', "newer ModelMora"),
        (b'"format":1', b'"format":[]', "cannot be read"),
    ],
)
async def test_what_another_version_made_is_refused(
    full: Stores, empty: Stores, tmp_path: Path, told: tuple[bytes, bytes, str]
) -> None:
    old, new, said = told
    await saved(full, tmp_path / "b.tar")
    changed(tmp_path / "b.tar", tmp_path / "n.tar", lambda n, d: (n, d.replace(old, new) if n == "head.json" else d))
    with pytest.raises((WrongState, ValidationFailed), match=said):
        await empty.restore()(TarReader(tmp_path / "n.tar"))
    await empty.database.tables.check_empty()


async def test_a_backup_of_older_tables_is_brought_up_to_date(full: Stores, empty: Stores, tmp_path: Path) -> None:
    """Of the revision before pictures were kept."""
    await saved(full, tmp_path / "b.tar", vectors=False)
    later = ("pictures", "picture_tags", "ways", "outbox", "inbox", "dead_letters", "indexes")

    def older(name: str, data: bytes) -> tuple[str, bytes] | None:
        if name in {f"tables/{table}.jsonl" for table in later}:
            return None
        if name == "end.json":
            return name, data.replace(b"tables/", b"tables-").replace(b"tables-", b"tables/")
        return name, data.replace(b'"revision":"0003"', b'"revision":"0002"')

    changed(tmp_path / "b.tar", tmp_path / "incomplete.tar", older)
    with pytest.raises(ValidationFailed, match="cut off: it has no tables/"):
        await empty.restore()(TarReader(tmp_path / "incomplete.tar"))

    def whole(name: str, data: bytes) -> tuple[str, bytes] | None:
        if name == "end.json":
            end = json.loads(data)
            end["members"] = {n: d for n, d in end["members"].items() if n[7:-6] not in later}
            return name, json.dumps(end).encode()
        return older(name, data)

    changed(tmp_path / "b.tar", tmp_path / "old.tar", whole)
    await empty.restore()(TarReader(tmp_path / "old.tar"))
    assert (await empty.database.models.get("birds")).name == "birds"
    await register(empty, coming("new"))  # the tables are today's


# --- the file ----------------------------------------------------------------------------------------------------


async def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_text("mine")
    with pytest.raises(Conflict, match="is there already"):
        async with TarWriter(tmp_path / "b.tar"):
            pytest.fail("it was begun")
    assert (tmp_path / "b.tar").read_text() == "mine"


async def test_a_backup_that_breaks_off_leaves_nothing(full: Stores, tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed, match="there is no folder"):
        await saved(full, tmp_path / "nowhere" / "b.tar")
    archive = TarWriter(tmp_path / "b.tar")
    await archive.__aenter__()
    await archive.add("one", chunks(b"1"))
    assert "b.tar" not in names(tmp_path)
    await archive.__aexit__(RuntimeError, RuntimeError("broke"), None)
    assert names(tmp_path) & {"b.tar"} == set()
    assert not any(name.endswith(".part") for name in names(tmp_path))


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


async def test_a_member_that_breaks_off_is_not_in_it(tmp_path: Path) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield b"x" * 10_000
        raise RuntimeError("broke")

    async with TarWriter(tmp_path / "b.tar") as archive:
        await archive.add("one", chunks(b"1"))
        with pytest.raises(RuntimeError, match="broke"):
            await archive.add("broken", breaks())
        await archive.add("two", chunks(b"2" * 1_000))
    assert (tmp_path / "b.tar").stat().st_mode & 0o777 == 0o600
    reader = TarReader(tmp_path / "b.tar")
    assert reader.names() == ("one", "two")
    assert b"".join([c async for c in reader.read("two")]) == b"2" * 1_000
    with tarfile.open(tmp_path / "b.tar") as archive_:
        assert archive_.getnames() == ["one", "two"]


@pytest.mark.parametrize("content", [b"", b"rubbish" * 1_000, b"\x00" * 10_240])
async def test_what_is_no_backup_is_refused(empty: Stores, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(ValidationFailed, match="no backup"):
        await empty.restore()(TarReader(tmp_path / "b.tar"))
    with pytest.raises(ValidationFailed, match="there is no"):
        TarReader(tmp_path / "nothing.tar")


async def test_a_full_disk_is_said(tmp_path: Path) -> None:
    archive = TarWriter(tmp_path / "b.tar")
    await archive.__aenter__()
    full, real = full_disk(), archive._file
    archive._file = full
    with pytest.raises(DependencyUnavailable, match="the disk is full"):
        await archive.add("one", chunks(b"1"))
    full.close()
    archive._file = real
    await archive.__aexit__(DependencyUnavailable, DependencyUnavailable(""), None)
    assert names(tmp_path) == set()


def full_disk() -> BinaryIO:
    """Where nothing can be written to, and where it stands does not matter."""
    file = Path("/dev/full").open("r+b", buffering=0)  # noqa: SIM115 - its test closes it
    file.truncate = lambda size=None: 0  # type: ignore[method-assign] # a device has no length
    return cast(BinaryIO, file)
