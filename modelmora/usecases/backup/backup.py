"""Everything that is kept, into one archive, beside a server that goes on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime

from modelmora.domain.pictures.spaces import Index
from modelmora.errors import ArtifactCorrupt, ImageNotFound, LimitExceeded
from modelmora.ports import (
    ArchiveWriter,
    Indexes,
    Objects,
    PictureFiles,
    PictureRecords,
    Row,
    Tables,
    TablesCopy,
    Vectors,
)
from modelmora.usecases.backup import layout
from modelmora.usecases.backup.layout import Digested, End, Head, IndexLine, PointLine, Report

POINTS = 256
"""So many are asked for at a time."""


@dataclass(slots=True)
class _Picture:
    """Bytes of its own, and the records that have them."""

    bytes: int
    content_type: str
    ids: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Going:
    """What one backup knows so far."""

    archive: ArchiveWriter
    end: End = field(default_factory=End)
    files: dict[str, None] = field(default_factory=dict)
    pictures: dict[str, _Picture] = field(default_factory=dict)
    seqs: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, number: int = 1) -> None:
        self.end.counts[what] = self.end.counts.get(what, 0) + number

    async def add(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        """With its digest at the end."""
        member = await self.archive.add(name, chunks)
        self.end.members[name] = Digested(bytes=member.bytes, sha256=member.sha256)


class Backup:
    """The use case behind `modelmora backup`. Rows are of one moment; what they refer to is copied behind them, so that
    nothing they name has still to come."""

    def __init__(
        self,
        tables: Tables,
        objects: Objects,
        files: PictureFiles,
        *,
        records: PictureRecords,
        vectors: Vectors,
        indexes: Indexes,
        version: str,
        clock: Callable[[], datetime],
    ) -> None:
        """`version` is the product's."""
        self._tables = tables
        self._objects = objects
        self._files = files
        self._records = records
        self._vectors = vectors
        self._indexes = indexes
        self._version = version
        self._clock = clock

    async def __call__(self, archive: ArchiveWriter, *, vectors: bool = True) -> Report:
        """Without `vectors` a restored server embeds its pictures again. Raises DependencyUnavailable."""
        going = _Going(archive)
        head = Head(version=self._version, revision=await self._tables.revision(), made_at=self._clock())
        await archive.add(layout.HEAD, _once(head.model_dump_json().encode()))
        async with self._tables.copy() as copy:
            for table in copy.names:
                await going.add(f"{layout.TABLES}{table}.jsonl", self._rows(copy, table, going))
        for sha256 in going.files:
            await self._file(sha256, going)
        for sha256, picture in going.pictures.items():
            await self._picture(sha256, picture, going)
        if vectors:
            for number, index in enumerate(await self._indexes.all()):
                await going.add(f"{layout.VECTORS}{number}.jsonl", self._points(index, going))
        await archive.add(layout.END, _once(going.end.model_dump_json().encode()))
        return Report(going.end.counts, going.end.left_out, head.made_at)

    async def _rows(self, copy: TablesCopy, table: str, going: _Going) -> AsyncIterator[bytes]:
        async for rows in copy.rows(table):
            told = [self._seen(table, row, going) for row in rows]
            going.count("rows", len(told))
            yield b"".join(map(layout.line, told))

    def _seen(self, table: str, row: Row, going: _Going) -> Row:
        """Notes what it refers to. Where its bytes lie is told by their digest: elsewhere it is another place."""
        if table == "version_files":
            going.files[row["sha256"]] = None
        if table != "pictures":
            return row
        going.seqs[row["id"]] = row["seq"]
        if row["object"] != self._files.place(row["sha256"]):
            return row
        if row["deleted_at"] is None:
            own = going.pictures.setdefault(row["sha256"], _Picture(row["bytes"], row["content_type"]))
            own.ids.append(row["id"])
        return {**row, "object": ""}

    async def _file(self, sha256: str, going: _Going) -> None:
        """A file of a registered model."""
        try:
            if await self._objects.find(sha256) is None:
                going.end.left_out[sha256] = "the object store does not have this file of a model"
                return
            await going.archive.add(f"{layout.FILES}{sha256}", self._objects.get(sha256))
        except ArtifactCorrupt as error:
            going.end.left_out[sha256] = error.detail
        else:
            going.count("files")

    async def _picture(self, sha256: str, picture: _Picture, going: _Going) -> None:
        try:
            data = await self._files.get(self._files.place(sha256), max_bytes=picture.bytes)
        except (ImageNotFound, LimitExceeded) as error:
            await self._without(sha256, picture, error.detail, going)
            return
        if await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest()) != sha256:
            await self._without(sha256, picture, "the picture has other bytes than were put there", going)
            return
        kind = picture.content_type.rpartition("/")[2]
        await going.archive.add(f"{layout.PICTURES}{sha256}.{kind}", _once(data))
        going.count("pictures", len(picture.ids))
        thumbnail = await self._files.thumbnail(sha256)
        if thumbnail is not None:
            await going.archive.add(f"{layout.THUMBNAILS}{sha256}.webp", _once(thumbnail))

    async def _without(self, sha256: str, picture: _Picture, why: str, going: _Going) -> None:
        """Removed since its row was read, or lost before."""
        if await self._records.used(sha256):
            going.end.left_out[sha256] = why
        else:
            going.end.gone += picture.ids

    async def _points(self, index: Index, going: _Going) -> AsyncIterator[bytes]:
        """Of pictures as the rows have them: what was added or changed since is embedded again."""
        space = index.space
        live, settings = index.state == "live", index.settings
        first = IndexLine(name=space.name, alias=space.alias, live=live, dimension=index.dimension, settings=settings)
        yield first.model_dump_json().encode() + b"\n"
        after: str | None = None
        while True:
            ids, after = await self._vectors.ids(space.name, after=after, limit=POINTS)
            known = [id_ for id_ in ids if id_ in going.seqs]
            found = await self._vectors.points(space.name, known) if known else []
            points = [one for one in found if one.provenance.seq <= going.seqs[one.provenance.picture_id]]
            going.count("vectors", len(points))
            yield b"".join(PointLine(point=one).model_dump_json().encode() + b"\n" for one in points)
            if after is None:
                return


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data
