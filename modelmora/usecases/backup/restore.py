"""Everything that was kept, out of an archive into empty stores."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelmora.domain.pictures.search import Point
from modelmora.errors import ArtifactCorrupt, ValidationFailed, WrongState
from modelmora.ports import ArchiveReader, Objects, PictureFiles, Row, Tables, Vectors
from modelmora.usecases.backup import layout
from modelmora.usecases.backup.layout import End, Head, IndexLine, PointLine, Report

BATCH = 256
"""Rows, and points, that are written at once."""


@dataclass(slots=True)
class _Coming:
    """One restore. `indexed` are the pictures whose vectors came along, by `name@version`; `made` the indexes."""

    archive: ArchiveReader
    end: End
    gone: frozenset[str]
    indexed: set[tuple[str, str]] = field(default_factory=set)
    made: list[str] = field(default_factory=list)


class Restore:
    """The use case behind `modelmora restore`. Rows come last and together: a restore that breaks off leaves a database
    that is empty still, and can be begun again."""

    def __init__(self, tables: Tables, objects: Objects, files: PictureFiles, vectors: Vectors) -> None:
        self._tables = tables
        self._objects = objects
        self._files = files
        self._vectors = vectors

    async def __call__(self, archive: ArchiveReader) -> Report:
        """Raises ValidationFailed (not a whole backup), WrongState (of a newer ModelMora; the stores are not empty),
        ArtifactCorrupt (other bytes than were written), DependencyUnavailable."""
        head, end = await _ends(archive)
        await self._tables.check_empty()
        coming = _Coming(archive, end, frozenset(end.gone))
        for name in archive.names():
            await self._file(name, archive)
        try:
            for name in archive.names():
                if name.startswith(layout.VECTORS):
                    await self._index(name, coming)
            await self._tables.fill(head.revision, self._rows(coming))
        except BaseException:
            for made in coming.made:
                await self._vectors.drop(made)
            raise
        return Report(end.counts, end.left_out, head.made_at)

    async def _file(self, name: str, archive: ArchiveReader) -> None:
        """By its digest, which is looked at again."""
        folder, _, file = name.rpartition("/")
        sha256, _, kind = file.partition(".")
        match f"{folder}/":
            case layout.FILES:
                await self._objects.put(archive.read(name), sha256=sha256)
            case layout.PICTURES:
                data = await layout.whole(archive, name)
                if await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest()) != sha256:
                    raise _spoilt(name)
                await self._files.put(sha256, data, content_type=f"image/{kind}")
            case layout.THUMBNAILS:
                await self._files.put_thumbnail(sha256, await layout.whole(archive, name))

    async def _index(self, name: str, coming: _Coming) -> None:
        told, points = _checked(name, coming), list[Point]()
        first = layout.read(IndexLine, await anext(told, b""), where=name)
        if await self._vectors.count(first.name):
            said = f"the vector store has points in {first.name} already"
            raise WrongState(f"{said}; remove it there, or name another store by MODELMORA_VECTORS_URL")
        coming.made.append(first.name)
        await self._vectors.create(first.name, dimension=first.dimension, settings=first.settings)
        async for data in told:
            points.append(layout.read(PointLine, data, where=name).point)
            if len(points) == BATCH:
                await self._upsert(first.name, points, coming)
                points = []
        await self._upsert(first.name, points, coming)
        if first.live:
            await self._vectors.switch(first.alias, first.name)

    async def _upsert(self, name: str, points: Sequence[Point], coming: _Coming) -> None:
        kept = [one for one in points if one.provenance.picture_id not in coming.gone]
        if kept:
            await self._vectors.upsert(name, kept)
        of = (one.provenance for one in kept)
        coming.indexed.update((f"{made.model}@{made.version}", made.picture_id) for made in of)

    async def _rows(self, coming: _Coming) -> AsyncIterator[tuple[str, Sequence[Row]]]:
        """Of each table; the tables stand in an order in which none refers to a later one."""
        for name in coming.archive.names():
            if not name.startswith(layout.TABLES):
                continue
            table, rows = name.removeprefix(layout.TABLES).removesuffix(".jsonl"), list[Row]()
            async for data in _checked(name, coming):
                row = self._placed(table, layout.row_of(data, table=table), coming)
                if row is not None:
                    rows.append(row)
                if len(rows) == BATCH:
                    yield table, rows
                    rows = []
            yield table, rows

    def _placed(self, table: str, row: dict[str, Any], coming: _Coming) -> Row | None:
        """As it is to be here; None for what belongs to a picture that was removed meanwhile."""
        if row.get("id" if table == "pictures" else "picture_id") in coming.gone:
            return None
        if table == "pictures" and row.get("object") == "":
            return {**row, "object": self._files.place(row["sha256"])}
        if table == "ways" and row.get("state") == "indexed" and _way(row) not in coming.indexed:
            return {**row, "state": "received"}  # the sweep announces it
        return row


async def _ends(archive: ArchiveReader) -> tuple[Head, End]:
    """Raises ValidationFailed, WrongState."""
    names: Collection[str] = archive.names()
    if layout.HEAD not in names:
        raise ValidationFailed("this is no backup of ModelMora", field="FILE")
    head = layout.read(Head, await layout.whole(archive, layout.HEAD), where=layout.HEAD)
    if head.format != layout.FORMAT:
        said = f"the backup is of format {head.format}, made by ModelMora {head.version}"
        raise WrongState(f"{said}; this one reads format {layout.FORMAT}")
    if layout.END not in names:
        raise ValidationFailed("the backup is cut off: its end is not there", field="FILE")
    end = layout.read(End, await layout.whole(archive, layout.END), where=layout.END)
    missing = sorted(end.members.keys() - set(names))
    if missing:
        raise ValidationFailed(f"the backup is cut off: it has no {missing[0]}", field="FILE")
    return head, end


async def _checked(name: str, coming: _Coming) -> AsyncGenerator[bytes, None]:
    """The lines of a member; raises ArtifactCorrupt at its end where its bytes are not those written."""
    sha256 = hashlib.sha256()

    async def digested() -> AsyncIterator[bytes]:
        async for chunk in coming.archive.read(name):
            sha256.update(chunk)
            yield chunk

    async for one in layout.lines(digested()):
        yield one
    told = coming.end.members.get(name)
    if told is None or told.sha256 != sha256.hexdigest():
        raise _spoilt(name)


def _spoilt(name: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"{name} of the backup has other bytes than were written; use another copy of the file")


def _way(row: Row) -> tuple[str, str]:
    return str(row.get("space")), str(row.get("picture_id"))
